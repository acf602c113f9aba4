package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func isDuplicate(err error) bool { return errors.Is(err, ErrDuplicate) }

func sameHello(a, b Hello) bool {
	return a.Version == b.Version && a.Instance == b.Instance && a.Boot == b.Boot && a.Run == b.Run && slices.Equal(a.Capabilities, b.Capabilities)
}

// noReason is that of a ban in which nobody gave one: Host.Banned must not be
// empty then.
const noReason = "no reason is recorded"

// Ban keeps a machine out, at once and for good, and returns how many streams
// were cut. Banning again replaces the reason.
func (r *Registry) Ban(ctx context.Context, actor string, name fleet.MachineName, reason string) (int, error) {
	e := r.lookup(name)
	if e == nil {
		return 0, fmt.Errorf("banning %s: %w", name, ErrUnknownMachine)
	}
	reason = cmp.Or(reason, noReason)
	e.change.Lock()
	defer e.change.Unlock()
	entry := audit.Entry{Actor: actor, Kind: KindBanned, Machine: name, Message: reason}
	if err := r.commitBan(ctx, name, ban{Reason: reason, Actor: actor, Time: r.o.Now()}, entry); err != nil {
		return 0, fmt.Errorf("banning %s: %w", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.updateLocked(func(h *Host) { h.Banned = reason })
	// attach checks the ban under mu: no stream slips in after this.
	if s := e.session.Load(); s != nil {
		s.cut(fmt.Errorf("%w: %s", ErrBanned, reason))
		return 1, nil
	}
	return 0, nil
}

// Unban lifts a ban. Lifting none is no error.
func (r *Registry) Unban(ctx context.Context, actor string, name fleet.MachineName, reason string) error {
	e := r.lookup(name)
	if e == nil {
		return fmt.Errorf("lifting the ban of %s: %w", name, ErrUnknownMachine)
	}
	e.change.Lock()
	defer e.change.Unlock()
	b := ban{Reason: reason, Actor: actor, Time: r.o.Now(), Lifted: true}
	if e.host.Load().Banned == "" {
		// For SeedBan, which may come with a ban that a lost store had.
		op, err := put(banPrefix+string(name), b)
		if err == nil {
			_, err = r.o.Store.Txn(ctx, nil, []store.Op{op})
		}
		return err
	}
	entry := audit.Entry{Actor: actor, Kind: KindUnbanned, Machine: name, Message: reason}
	if err := r.commitBan(ctx, name, b, entry); err != nil {
		return fmt.Errorf("lifting the ban of %s: %w", name, err)
	}
	r.update(e, func(h *Host) { h.Banned = "" })
	return nil
}

// SeedBan bans a machine as the kit or the fleet's repository says, unless it is
// banned, or such a ban was lifted after at, the time at which this one was
// made.
func (r *Registry) SeedBan(ctx context.Context, actor string, name fleet.MachineName, reason string, at time.Time) error {
	kv, err := r.o.Store.Get(ctx, banPrefix+string(name))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("banning %s: %w", name, err)
	}
	if err == nil {
		var known ban
		if err := json.Unmarshal(kv.Value, &known); err != nil {
			return fmt.Errorf("banning %s: %w", name, err)
		}
		if !known.Lifted || !at.After(known.Time) {
			return nil
		}
	}
	r.entry(name)
	_, err = r.Ban(ctx, actor, name, reason)
	return err
}

func (r *Registry) commitBan(ctx context.Context, name fleet.MachineName, b ban, entry audit.Entry) error {
	op, err := put(banPrefix+string(name), b)
	if err != nil {
		return err
	}
	return r.o.Log.Commit(ctx, audit.Change{Ops: []store.Op{op}, Entries: []audit.Entry{entry}})
}

// Enrol registers a new identity together with what conds and ops say, and
// cuts the stream of the one that it replaces. Errors: store.ErrConflict,
// ErrBanned.
func (r *Registry) Enrol(ctx context.Context, name fleet.MachineName, id Identity, instance string, c audit.Change) error {
	e := r.entry(name)
	e.change.Lock()
	defer e.change.Unlock()
	if b := e.host.Load().Banned; b != "" {
		return fmt.Errorf("%w: %s", ErrBanned, b)
	}
	id = e.host.Load().Identity.replacedBy(id)
	id.CA, id.Shown = "", time.Time{} // The host does not have the certificate yet.
	op, err := put(identityPrefix+string(name), id)
	if err != nil {
		return err
	}
	c.Ops = append(c.Ops, op)
	if err := r.o.Log.Commit(ctx, c); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pendingIdentity, name)
	e.prevLife = ""
	e.updateLocked(func(h *Host) {
		h.Identity = id
		h.Hello = Hello{Instance: instance}
	})
	e.heard = r.o.Now()
	e.seen.Store(e.heard.Unix())
	if s := e.session.Load(); s != nil && s.hello.Instance != instance {
		s.cut(ErrSuperseded)
		e.session.CompareAndSwap(s, nil)
	}
	return nil
}

// Renewed registers the lifetime of a new certificate over the registered key.
// Errors: ErrSuperseded, ErrTooOften.
func (r *Registry) Renewed(ctx context.Context, name fleet.MachineName, id Identity, entry audit.Entry) error {
	e := r.entry(name)
	e.change.Lock()
	defer e.change.Unlock()
	next := e.host.Load().Identity
	if next.Fingerprint != id.Fingerprint {
		return ErrSuperseded
	}
	next.NotBefore, next.Expires = id.NotBefore, id.Expires
	op, err := put(identityPrefix+string(name), next)
	if err != nil {
		return err
	}
	if err := r.spend(e, 1); err != nil {
		return err
	}
	if err := r.o.Log.Commit(ctx, audit.Change{Ops: []store.Op{op}, Entries: []audit.Entry{entry}}); err != nil {
		r.refund(e, 1)
		return err
	}
	r.update(e, func(h *Host) { h.Identity = next })
	return nil
}

// SetKeys registers a host's own keys where none are, for a store that lost
// them. Errors: ErrKeys, with an alarm, where others are registered.
func (r *Registry) SetKeys(ctx context.Context, name fleet.MachineName, keys, mac []byte) error {
	e := r.entry(name)
	e.change.Lock()
	defer e.change.Unlock()
	next := e.host.Load().Identity
	if len(next.Keys) > 0 {
		if string(next.Keys) == string(keys) {
			return nil
		}
		r.alarm(ctx, name, KindKeysChanged, "the host sent other keys of its own than at its enrolment")
		return ErrKeys
	}
	next.Keys, next.MAC = keys, mac
	op, err := put(identityPrefix+string(name), next)
	if err != nil {
		return err
	}
	err = r.o.Log.Commit(ctx, audit.Change{Ops: []store.Op{op}, Entries: []audit.Entry{{
		Actor: "host/" + string(name), Kind: KindHostKeys, Machine: name, Message: "report key registered on sight: compare it with hosts/ of the fleet's repository",
	}}})
	if err != nil {
		return err
	}
	r.update(e, func(h *Host) { h.Identity = next })
	return nil
}

// ApplyInventory replaces the machines and, unless operators is nil, merges the
// operators. It says whether anything was different. A failure midway leaves a
// part applied: applying again completes it. by is who must stay admin, if
// anyone. Errors: ErrNoAdmin, ErrOwnRole, ErrTooManyOperators.
func (r *Registry) ApplyInventory(ctx context.Context, actor string, by fleet.OperatorName, machines []Machine, operators []Operator) (bool, error) {
	r.inventoryMu.Lock()
	defer r.inventoryMu.Unlock()
	var ops []store.Op
	wanted := make(map[fleet.MachineName]Machine, len(machines))
	for _, m := range machines {
		wanted[m.Name] = m
	}
	for _, h := range r.Hosts() {
		if _, ok := wanted[h.Name]; !ok && h.Machine != nil {
			ops = append(ops, store.Op{Key: machinePrefix + string(h.Name), Delete: true})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		m := wanted[name]
		if h, ok := r.Host(name); ok && h.Machine != nil && h.Machine.equal(m) {
			continue
		}
		op, err := put(machinePrefix+string(name), m)
		if err != nil {
			return false, err
		}
		ops = append(ops, op)
	}
	next, operatorOps, err := r.operatorOps(by, operators)
	if err != nil {
		return false, err
	}
	ops = append(ops, operatorOps...)
	if len(ops) == 0 {
		return false, nil
	}
	for chunk := range slices.Chunk(ops, maxChangeOps) {
		err := r.o.Log.Commit(ctx, audit.Change{Ops: chunk, Entries: []audit.Entry{{
			Actor: actor, Kind: KindInventory, Message: fmt.Sprintf("%d machines or operators changed", len(chunk)),
		}}})
		if err != nil {
			return false, fmt.Errorf("applying the inventory: %w", err)
		}
	}
	r.setInventory(wanted, next)
	return true, nil
}

// operatorOps merges operators with those that are there; nil changes none.
func (r *Registry) operatorOps(by fleet.OperatorName, operators []Operator) (operatorSet, []store.Op, error) {
	old := *r.operators.Load()
	if operators == nil {
		return old, nil, nil
	}
	next := old.merge(operators)
	if err := next.check(); err != nil {
		return nil, nil, err
	}
	if o := next[by]; by != "" && (o.Role != fleet.RoleAdmin || o.Removed) {
		return nil, nil, ErrOwnRole
	}
	ops, err := old.ops(next)
	return next, ops, err
}

// setInventory takes an inventory into memory.
func (r *Registry) setInventory(machines map[fleet.MachineName]Machine, operators operatorSet) {
	for name, m := range machines {
		r.update(r.entry(name), func(h *Host) { h.Machine = &m })
	}
	for _, e := range r.all() {
		if h := e.host.Load(); h.Machine != nil {
			if _, ok := machines[h.Name]; !ok {
				r.update(e, func(h *Host) { h.Machine = nil })
			}
		}
	}
	r.operators.Store(&operators)
}

func put(key string, v any) (store.Op, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	// Escaped for HTML, what hosts write would take up to six times its room.
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return store.Op{}, fmt.Errorf("encoding %s: %w", key, err)
	}
	return store.Op{Key: key, Value: bytes.TrimSuffix(buf.Bytes(), []byte("\n"))}, nil
}
