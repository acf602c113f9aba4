package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// commitTimeout bounds one transaction of a group: those who wait for it did
// not agree to the context of the one who carries it out.
const commitTimeout = 30 * time.Second

// headRetries bounds how often a commit is tried again because another process
// wrote to the same log.
const headRetries = 8

// committer groups changes: one goroutine at a time, the one whose turn it is,
// writes for all who wait.
type committer struct {
	queueMu sync.Mutex // guards queue
	queue   []*pending

	turn chan struct{} // holds one element while somebody writes
	// head, headRev and known belong to whoever has the turn.
	head    head
	headRev uint64
	known   bool
}

// pending is a change that waits. done is closed after err is set.
type pending struct {
	Change
	done chan struct{}
	err  error
}

// Commit carries out a change and writes its events, both or none, and
// returns nil when they are durable. Changes that arrive together share a
// transaction, unless they have conditions. When ctx ends before the change
// was begun it is not made; once begun, Commit waits for the outcome.
// Errors: store.ErrConflict (of the change's conditions), store.ErrTooLarge,
// and others of the store.
func (l *Log) Commit(ctx context.Context, c Change) error {
	if len(c.Entries) == 0 {
		return fmt.Errorf("%w: a change without an event", store.ErrInvalid)
	}
	if err := l.check(c); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p := &pending{Change: c, done: make(chan struct{})}
	l.queueMu.Lock()
	l.queue = append(l.queue, p)
	l.queueMu.Unlock()

	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		if l.withdraw(p) {
			return ctx.Err()
		}
		<-p.done
		return p.err
	case l.turn <- struct{}{}:
	}
	defer func() { <-l.turn }()
	for {
		select {
		case <-p.done:
			return p.err
		default:
			l.write(context.WithoutCancel(ctx), l.take())
		}
	}
}

// check refuses what can never be written, so that it spoils no group.
func (l *Log) check(c Change) error {
	if n := len(c.Ops) + len(c.Entries); n > MaxEntries || len(c.Conds) > MaxEntries {
		return fmt.Errorf("%w: %d operations and events, at most %d", store.ErrTooLarge, n, MaxEntries)
	}
	if sizeOf(c) > store.MaxTxnBytes {
		return fmt.Errorf("%w: about %d bytes, at most %d", store.ErrTooLarge, sizeOf(c), store.MaxTxnBytes)
	}
	return store.CheckTxn(c.Conds, c.Ops)
}

// withdraw takes p off the queue, unless somebody is writing it already.
func (l *Log) withdraw(p *pending) bool {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	i := slices.Index(l.queue, p)
	if i < 0 {
		return false
	}
	l.queue = slices.Delete(l.queue, i, i+1)
	return true
}

// Sizes for sizeOf, generous: a record's JSON around its texts, where each
// byte may be escaped to six, and the head with its key.
const (
	recordOverhead = 320
	escaped        = 6
	headSize       = 256
)

// sizeOf is an upper bound of what a change adds to a transaction.
func sizeOf(c Change) int {
	size := headSize
	for _, cond := range c.Conds {
		size += len(cond.Key)
	}
	for _, op := range c.Ops {
		size += len(op.Key) + len(op.Value)
	}
	for _, e := range c.Entries {
		size += recordOverhead + escaped*(len(e.Actor)+len(e.Kind)+len(e.Machine)+min(len(e.Message), MaxMessage+3))
	}
	return size
}

// take takes the next group off the queue: the oldest change, and those after
// it that fit into the same transaction.
func (l *Log) take() []*pending {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	keys := map[string]bool{}
	n, ops, size := 0, 1, 0
	for ; n < len(l.queue); n++ {
		c := l.queue[n].Change
		ops += len(c.Ops) + len(c.Entries)
		size += sizeOf(c)
		twice := slices.ContainsFunc(c.Ops, func(op store.Op) bool { return keys[op.Key] })
		if n > 0 && (len(c.Conds) > 0 || twice || ops > store.MaxOps || size > store.MaxTxnBytes) {
			break
		}
		for _, op := range c.Ops {
			keys[op.Key] = true
		}
		if len(c.Conds) > 0 {
			n++
			break
		}
	}
	group := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	return group
}

// write writes a group and answers its members. The caller has the turn.
func (l *Log) write(ctx context.Context, group []*pending) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	err := l.writeGroup(ctx, group)
	for _, p := range group {
		p.err = err
		if err == nil {
			l.alarm(ctx, p.Entries)
		}
		close(p.done)
	}
}

func (l *Log) writeGroup(ctx context.Context, group []*pending) error {
	for range headRetries {
		if !l.known {
			h, rev, err := l.readHead(ctx)
			if err != nil {
				return err
			}
			l.head, l.headRev, l.known = h, rev, true
		}
		conds, ops, next, err := l.compose(group)
		if err != nil {
			return err
		}
		kind := string(group[0].Entries[0].Kind)
		crashpoint.HitFor(crashpoint.EventWrite, kind)
		rev, err := l.store.Txn(ctx, conds, ops)
		if err == nil {
			crashpoint.HitFor(crashpoint.EventWritten, kind)
			l.head, l.headRev = next, rev
			return nil
		}
		// Whatever went wrong: what the head is now is read again.
		l.known = false
		if !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("writing to the event log: %w", err)
		}
		if _, rev, herr := l.readHead(ctx); herr != nil || rev == l.headRev {
			return fmt.Errorf("writing to the event log: %w", errors.Join(err, herr))
		}
	}
	return fmt.Errorf("writing to the event log: %w: another process keeps writing to it", store.ErrConflict)
}

// compose makes one transaction of a group. That the head is still the one
// that the records chain to is a condition: two writers can't fork the chain.
func (l *Log) compose(group []*pending) (conds []store.Cond, ops []store.Op, h head, err error) {
	h = l.head
	at := l.now()
	conds = append(conds, store.Cond{Key: headKey, Revision: l.headRev})
	for _, p := range group {
		conds = append(conds, p.Conds...)
		ops = append(ops, p.Ops...)
		for _, e := range p.Entries {
			var op store.Op
			if op, h, err = encode(h, at, e); err != nil {
				return nil, nil, h, err
			}
			ops = append(ops, op)
		}
	}
	b, err := json.Marshal(h)
	if err != nil {
		return nil, nil, h, fmt.Errorf("encoding the head: %w", err)
	}
	return conds, append(ops, store.Op{Key: headKey, Value: b}), h, nil
}

func (l *Log) alarm(ctx context.Context, entries []Entry) {
	for _, e := range entries {
		if e.Alarm {
			l.log.WarnContext(ctx, "alarm", "kind", string(e.Kind), "machine", string(e.Machine), "actor", e.Actor, "message", clip(e.Message))
		}
	}
}
