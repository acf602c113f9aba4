package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// Bounds of what is written in one bbolt transaction.
const (
	maxBatch      = 256
	maxBatchBytes = 4 << 20
)

// request is a transaction that waits for its turn. Fields below done are
// written by whoever holds writeMu.
type request struct {
	conds []store.Cond
	ops   []store.Op
	size  int

	done     bool
	revision uint64
	events   []store.Event
	err      error
}

// Get returns one key, or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (kv store.KV, err error) {
	if err := ctx.Err(); err != nil {
		return kv, err
	}
	if err := store.CheckKey(key); err != nil {
		return kv, err
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		raw := tx.Bucket(bucketData).Get([]byte(key))
		if raw == nil {
			return fmt.Errorf("getting %q: %w", key, store.ErrNotFound)
		}
		kv, _, err = decode(key, raw)
		return err
	})
	return kv, err
}

// List returns keys with this prefix that are greater than after.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (kvs []store.KV, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.CheckList(limit); err != nil {
		return nil, err
	}
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketData).Cursor()
		k, raw := c.Seek([]byte(max(prefix, after)))
		if k != nil && string(k) == after {
			k, raw = c.Next()
		}
		for ; k != nil && bytes.HasPrefix(k, []byte(prefix)) && len(kvs) < limit; k, raw = c.Next() {
			kv, _, err := decode(string(k), raw)
			if err != nil {
				return err
			}
			kvs = append(kvs, kv)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return kvs, nil
}

// Txn carries out one transaction, together with others that wait.
func (s *Store) Txn(ctx context.Context, conds []store.Cond, ops []store.Op) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := store.CheckTxn(conds, ops); err != nil {
		return 0, err
	}
	if why := s.halted.Load(); why != nil {
		return 0, *why
	}
	r := &request{conds: conds, ops: ops}
	for _, op := range ops {
		r.size += len(op.Key) + len(op.Value)
	}
	s.queueMu.Lock()
	s.queue = append(s.queue, r)
	s.queueMu.Unlock()

	// Whoever gets the lock writes for all who queued up to then. Most find
	// that theirs was written while they waited for the lock.
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.retry()
	for !r.done {
		s.writeBatch(s.takeBatch())
	}
	return r.revision, r.err
}

// takeBatch takes the oldest requests off the queue, at least one.
func (s *Store) takeBatch() []*request {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	n, size := 0, 0
	for n < len(s.queue) && n < maxBatch {
		size += s.queue[n].size
		if n > 0 && size > maxBatchBytes {
			break
		}
		n++
	}
	batch := s.queue[:n:n]
	s.queue = s.queue[n:]
	if len(s.queue) == 0 {
		s.queue = nil // lets go of the requests
	}
	return batch
}

// writeBatch writes and answers requests. The caller holds writeMu.
func (s *Store) writeBatch(batch []*request) {
	var id int
	panicked := false
	err := s.use(func(db *bbolt.DB) error {
		panicked = true // unless what follows returns
		tx, err := db.Begin(true)
		if err == nil {
			id = tx.ID()
			err = s.commit(db, tx, batch)
		} else {
			err = fmt.Errorf("beginning a transaction: %w", err)
		}
		panicked = false
		return err
	})
	switch {
	case panicked:
		s.halt(err)
	case id != 0 && errors.Is(err, store.ErrFailed):
		s.fail(id, err)
	}
	for _, r := range batch {
		r.done = true
		if err != nil {
			r.revision, r.err = 0, err
			continue
		}
		s.watches.publish(r.events)
	}
}

// kindOf is what the first request of a batch is about: the first word of its
// first key.
func kindOf(batch []*request) string {
	for _, r := range batch {
		for _, op := range r.ops {
			kind, _, _ := strings.Cut(op.Key, "/")
			return kind
		}
	}
	return ""
}

// commit carries out a batch in a transaction that has begun.
func (s *Store) commit(db *bbolt.DB, tx *bbolt.Tx, batch []*request) error {
	changed, err := apply(tx, batch)
	if err != nil || !changed {
		// Nothing was written to the file yet: the store is as it was.
		if rerr := tx.Rollback(); err == nil {
			err = rerr
		}
		return err
	}
	id, durable := tx.ID(), 0
	crashpoint.HitFor(crashpoint.StoreWrite, kindOf(batch))
	s.settling.begin()
	defer func() { s.settling.end(durable) }()
	if err := tx.Commit(); err != nil {
		return afterFailure(db, id, err)
	}
	durable = id
	crashpoint.HitFor(crashpoint.StoreWritten, kindOf(batch))
	return nil
}

// afterFailure judges a commit that failed. Where the new meta page was not
// written (a full disk, say) the old state stands, in memory and on the disk,
// and the store goes on. Where it was, but not its fsync, nobody can tell what
// a restart would find: see Store.fail.
func afterFailure(db *bbolt.DB, id int, cause error) error {
	verr := db.View(func(tx *bbolt.Tx) error {
		if tx.ID() >= id {
			return store.ErrFailed
		}
		return nil
	})
	switch {
	case verr != nil:
		return fmt.Errorf("%w: writing: %w", store.ErrFailed, cause)
	case full(cause):
		return fmt.Errorf("%w: writing %s, nothing changed: %w: make room there, it goes on by itself", store.ErrNoSpace, db.Path(), cause)
	}
	return fmt.Errorf("writing the store, nothing changed: %w", cause)
}

// full says whether the disk has no room, or the file no leave to grow. bbolt
// keeps only the text of some errors.
func full(err error) bool {
	return slices.ContainsFunc([]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG}, func(no syscall.Errno) bool {
		return errors.Is(err, no) || strings.HasSuffix(err.Error(), no.Error())
	})
}

// apply evaluates each request against the state that those before it leave.
// Conditions are judged before the first write, so that one that conflicts
// leaves nothing behind.
func apply(tx *bbolt.Tx, batch []*request) (changed bool, err error) {
	meta, data := tx.Bucket(bucketMeta), tx.Bucket(bucketData)
	t, err := decodeTally(meta.Get(keyTally))
	if err != nil {
		return false, err
	}
	for _, r := range batch {
		if r.err = judge(data, r.conds); r.err != nil {
			continue
		}
		for _, op := range r.ops {
			e, did, err := write(data, &t, op)
			if err != nil {
				return false, fmt.Errorf("writing key %q: %w", op.Key, err)
			}
			if did {
				r.events = append(r.events, e)
			}
		}
		if len(r.events) > 0 {
			t.revision++
			changed = true
		}
		r.revision = t.revision
	}
	if !changed {
		return false, nil
	}
	return true, meta.Put(keyTally, t.encode())
}

// write carries out one operation and keeps the tally of it.
func write(data *bbolt.Bucket, t *tally, op store.Op) (e store.Event, did bool, err error) {
	key, revision := []byte(op.Key), t.revision+1
	if old := data.Get(key); old != nil {
		_, sum, err := decode(op.Key, old)
		if err != nil {
			return e, false, err
		}
		t.count--
		t.sum -= sum
	} else if op.Delete {
		return e, false, nil
	}
	if op.Delete {
		return store.Event{KV: store.KV{Key: op.Key, Revision: revision}, Deleted: true}, true, data.Delete(key)
	}
	raw := encode(op.Key, revision, op.Value)
	t.count++
	t.sum += binary.BigEndian.Uint64(raw[8:])
	return store.Event{KV: store.KV{Key: op.Key, Value: raw[entryHead:], Revision: revision}}, true, data.Put(key, raw)
}

func judge(data *bbolt.Bucket, conds []store.Cond) error {
	for _, c := range conds {
		var have uint64
		if raw := data.Get([]byte(c.Key)); raw != nil {
			kv, _, err := decode(c.Key, raw)
			if err != nil {
				return err
			}
			have = kv.Revision
		}
		if have != c.Revision {
			return fmt.Errorf("key %q has revision %d, expected %d: %w", c.Key, have, c.Revision, store.ErrConflict)
		}
	}
	return nil
}
