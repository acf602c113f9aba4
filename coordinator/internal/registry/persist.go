package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Keys in the store; a machine's or operator's name follows, after seenPrefix
// the number of a shard.
const (
	machinePrefix    = "machine/"
	operatorPrefix   = "operator/"
	identityPrefix   = "identity/"
	banPrefix        = "ban/"
	observedPrefix   = "host/"
	reportPrefix     = "report/"
	transitionPrefix = "transition/"
	seenPrefix       = "seen/"
)

const (
	// maxChangeOps leaves room in a transaction for events and their head.
	maxChangeOps = 90
	// maxTxnBytes leaves room for keys and events.
	maxTxnBytes = store.MaxTxnBytes - 64<<10
	// seenShards is over how many records signs of life are spread, so that
	// writing those of a whole fleet is a few transactions.
	seenShards = 64
	// FlushEvery is how often signs of life are written.
	FlushEvery = 30 * time.Second
	// refreshSeen is how often those of hosts are that are just connected.
	refreshSeen = 10 * time.Minute
)

// seen is a host's last sign of life at rest.
type seen struct {
	At    int64 `json:"at"` // Unix seconds
	Hello Hello `json:"hello,omitzero"`
}

func shardOf(name fleet.MachineName) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return h.Sum32() % seenShards
}

// each decodes every record below prefix.
func each[T any](ctx context.Context, s store.Store, prefix string, f func(name string, v T) error) error {
	for kv, err := range store.All(ctx, s, prefix) {
		if err != nil {
			return err
		}
		var v T
		if err := json.Unmarshal(kv.Value, &v); err != nil {
			return fmt.Errorf("decoding %s: %w", kv.Key, err)
		}
		if err := f(strings.TrimPrefix(kv.Key, prefix), v); err != nil {
			return fmt.Errorf("decoding %s: %w", kv.Key, err)
		}
	}
	return nil
}

// load fills an empty register. Nobody else uses it yet.
func (r *Registry) load(ctx context.Context) error {
	operators := operatorSet{}
	err := each(ctx, r.o.Store, operatorPrefix, func(name string, o Operator) error {
		if string(o.Name) != name {
			return fmt.Errorf("it is of operator %q", o.Name)
		}
		operators[o.Name] = o
		return nil
	})
	r.operators.Store(&operators)
	if err == nil {
		err = r.loadSightings(ctx)
	}
	if err != nil {
		return err
	}
	if err := loadHosts(ctx, r, machinePrefix, func(h *Host, m Machine) error {
		if m.Name != h.Name {
			return fmt.Errorf("it is of machine %q", m.Name)
		}
		h.Machine = &m
		return nil
	}); err != nil {
		return err
	}
	if err := loadHosts(ctx, r, identityPrefix, func(h *Host, i Identity) error {
		if i.Since.IsZero() { // It must not look older than any other.
			i.Since = i.NotBefore
		}
		h.Identity = i
		return nil
	}); err != nil {
		return err
	}
	if err := loadHosts(ctx, r, observedPrefix, func(h *Host, o Observed) error {
		h.Observed = o
		return nil
	}); err != nil {
		return err
	}
	err = loadHosts(ctx, r, banPrefix, func(h *Host, b ban) error {
		if !b.Lifted {
			h.Banned = cmp.Or(b.Reason, noReason)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return each(ctx, r.o.Store, seenPrefix, func(_ string, shard map[fleet.MachineName]seen) error {
		for name, s := range shard {
			if _, err := fleet.ParseMachineName(string(name)); err != nil {
				return err
			}
			e := r.entry(name)
			e.seen.Store(s.At)
			e.flushed, e.heard = s.At, time.Unix(s.At, 0)
			e.updateLocked(func(h *Host) { h.Hello = s.Hello })
		}
		return nil
	})
}

func loadHosts[T any](ctx context.Context, r *Registry, prefix string, f func(*Host, T) error) error {
	return each(ctx, r.o.Store, prefix, func(name string, v T) error {
		m, err := fleet.ParseMachineName(name)
		if err != nil {
			return err
		}
		r.entry(m).updateLocked(func(h *Host) { err = f(h, v) })
		return err
	})
}

// Run writes what is not urgent every FlushEvery until ctx ends, and then a
// last time.
func (r *Registry) Run(ctx context.Context) error {
	tick := time.NewTicker(FlushEvery)
	defer tick.Stop()
	l := r.o.Progress.Loop("register", "beginning", flushWithin)
	defer l.Ends()
	for {
		l.Waits()
		select {
		case <-tick.C:
			l.Does("writing signs of life", flushWithin)
			if err := r.Flush(ctx, false); err != nil && ctx.Err() == nil {
				r.o.Slog.Error("writing signs of life failed", "error", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return r.Flush(last, true)
		}
	}
}

// flushWithin is how long a Flush may take, of a register of any size.
const flushWithin = 5 * time.Minute

// Flush writes what is only in memory: identities registered on sight, which CA
// hosts have theirs of, status without a transition, and signs of life. All writes
// those of every connected host, otherwise only what is news. Where one fails, the others
// are written all the same. One Flush at a time.
func (r *Registry) Flush(ctx context.Context, all bool) error {
	return errors.Join(r.flushIdentities(ctx), r.flushCAs(ctx), r.flushObserved(ctx), r.flushSeen(ctx, all), r.flushSightings(ctx))
}

// takePending empties one of the pending sets.
func (r *Registry) takePending(pending map[fleet.MachineName]bool) []fleet.MachineName {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]fleet.MachineName, 0, len(pending))
	for name := range pending {
		names = append(names, name)
	}
	clear(pending)
	slices.Sort(names)
	return names
}

func (r *Registry) putBack(pending map[fleet.MachineName]bool, names []fleet.MachineName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		pending[name] = true
	}
}

// flushChunk is how many machines one transaction of a flush takes at most: a
// record and an event each.
const flushChunk = 40

// flushPending writes one record for each pending machine, many in one
// transaction. It holds the machines' change locks meanwhile, so that an older
// snapshot never overwrites a newer one; nobody else holds two of them.
func (r *Registry) flushPending(ctx context.Context, pending map[fleet.MachineName]bool, record func(*Host) (store.Op, error), write func([]store.Op, []fleet.MachineName) error) error {
	names := r.takePending(pending)
	for len(names) > 0 {
		chunk := names[:min(len(names), flushChunk)]
		n, err := r.flushSome(chunk, record, write)
		if err == nil {
			err = ctx.Err()
		}
		names = names[n:]
		if err != nil {
			r.putBack(pending, names)
			return err
		}
	}
	return nil
}

// flushSome writes as many of the machines, from the first on, as fit into one
// transaction, and returns how many.
func (r *Registry) flushSome(names []fleet.MachineName, record func(*Host) (store.Op, error), write func([]store.Op, []fleet.MachineName) error) (int, error) {
	var ops []store.Op
	size := 0
	for _, name := range names {
		e := r.entry(name)
		e.change.Lock()
		defer e.change.Unlock()
		op, err := record(e.host.Load())
		if err != nil {
			return 0, err
		}
		if size += len(op.Value); size > maxTxnBytes && len(ops) > 0 {
			break
		}
		ops = append(ops, op)
	}
	err := write(ops, names[:len(ops)])
	if len(ops) == 1 && errors.Is(err, store.ErrTooLarge) {
		// It would be too large the next time too, and nobody else's could be
		// written. What is in memory stays until its host says something else.
		r.o.Slog.Error("a machine's record is too large to be written", "machine", string(names[0]), "bytes", len(ops[0].Value))
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	return len(ops), nil
}

func (r *Registry) flushIdentities(ctx context.Context) error {
	return r.flushPending(ctx, r.pendingIdentity, func(h *Host) (store.Op, error) {
		return put(identityPrefix+string(h.Name), h.Identity)
	}, func(ops []store.Op, names []fleet.MachineName) error {
		c := audit.Change{Ops: ops}
		for _, name := range names {
			c.Entries = append(c.Entries, audit.Entry{
				Actor: r.o.Actor, Kind: KindOnSight, Machine: name, Message: "a certificate of the fleet's CA, of which nothing is on record",
			})
		}
		return r.o.Log.Commit(ctx, c)
	})
}

func (r *Registry) flushCAs(ctx context.Context) error {
	return r.flushPending(ctx, r.pendingCA, func(h *Host) (store.Op, error) {
		return put(identityPrefix+string(h.Name), h.Identity)
	}, r.withoutEvents(ctx))
}

// withoutEvents writes what nobody needs to be told of.
func (r *Registry) withoutEvents(ctx context.Context) func([]store.Op, []fleet.MachineName) error {
	return func(ops []store.Op, _ []fleet.MachineName) error {
		_, err := r.o.Store.Txn(ctx, nil, ops)
		return err
	}
}

func (r *Registry) flushObserved(ctx context.Context) error {
	return r.flushPending(ctx, r.pendingObserved, func(h *Host) (store.Op, error) {
		return put(observedPrefix+string(h.Name), h.Observed)
	}, r.withoutEvents(ctx))
}

// flushSeen writes the shards in which something changed.
func (r *Registry) flushSeen(ctx context.Context, all bool) error {
	now := r.o.Now().Unix()
	entries := r.all()
	var dirty [seenShards]bool
	for _, e := range entries {
		if e.session.Load() != nil && (all || now-e.flushed >= int64(refreshSeen/time.Second)) {
			e.seen.Store(now)
		}
		if e.seen.Load() != e.flushed {
			dirty[shardOf(e.host.Load().Name)] = true
		}
	}
	var shards [seenShards]map[fleet.MachineName]seen
	for _, e := range entries {
		h := e.host.Load()
		n := shardOf(h.Name)
		if at := e.seen.Load(); dirty[n] && at != 0 {
			if shards[n] == nil {
				shards[n] = map[fleet.MachineName]seen{}
			}
			shards[n][h.Name] = seen{At: at, Hello: h.Hello}
			e.flushed = at
		}
	}
	var ops []store.Op
	size := 0
	write := func() error {
		if len(ops) == 0 {
			return nil
		}
		_, err := r.o.Store.Txn(ctx, nil, ops)
		ops, size = nil, 0
		return err
	}
	for n, shard := range shards {
		if shard == nil {
			continue
		}
		op, err := put(fmt.Sprintf("%s%02x", seenPrefix, n), shard)
		if err != nil {
			return err
		}
		if size+len(op.Value) > maxTxnBytes {
			if err := write(); err != nil {
				return err
			}
		}
		ops, size = append(ops, op), size+len(op.Value)
	}
	return write()
}
