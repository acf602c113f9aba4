package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// Sentinels that errors of this package wrap.
var (
	// ErrUnknownMachine names a machine that the coordinator never heard of.
	ErrUnknownMachine = errors.New("unknown machine")
	// ErrBanned is a call by a banned machine.
	ErrBanned = errors.New("machine is banned")
	// ErrSuperseded is a call with a key that a later enrolment replaced.
	ErrSuperseded = errors.New("identity was superseded by a later enrolment")
	// ErrDuplicate is a second running instance of one identity.
	ErrDuplicate = errors.New("another instance of this machine is running")
	// ErrReplaced ends the stream of an instance that opened a newer one.
	ErrReplaced = errors.New("stream replaced by a newer one of the same instance")
	// ErrStopping ends streams when the coordinator stops.
	ErrStopping = errors.New("coordinator is stopping")
	// ErrNoAdmin is an inventory that would leave nobody to change it.
	ErrNoAdmin = errors.New("no operator would be admin")
	// ErrKeys is a report key that is not the registered one.
	ErrKeys = errors.New("host keys differ from the registered ones")
	// ErrNoKeys is a report from a host whose report key is not known.
	ErrNoKeys = errors.New("host keys are not known")
	// ErrTooOften is a host that would fill the event log: it may try later.
	ErrTooOften = errors.New("too many events of this host")
)

// Log is what the registry needs of the event log.
type Log interface {
	Commit(ctx context.Context, c audit.Change) error
}

// Options of a Registry.
type Options struct {
	Store store.Store
	Log   Log
	// Actor of what the coordinator does on its own: coordinator/NAME.
	Actor string
	Now   func() time.Time
	Slog  *slog.Logger
	// Progress hears of Run; nil for nobody.
	Progress *watchdog.Progress
}

// Registry is the register of machines.
type Registry struct {
	o Options

	// indexMu guards index only, for moments: entries come seldom and never go.
	indexMu sync.RWMutex
	index   map[fleet.MachineName]*entry

	operators atomic.Pointer[operatorSet]
	sightings sightings

	mu sync.Mutex // the one writer: guards changes of entries, hosts and sessions
	// alarmed remembers when an alarm was raised, so that a host that tries again
	// and again does not fill the event log. Guarded by mu.
	alarmed map[alarmKey]time.Time
	stopped bool // guarded by mu
	// inventoryMu orders whole inventories.
	inventoryMu sync.Mutex
	// pending are what Flush has to write. Guarded by mu.
	pendingIdentity map[fleet.MachineName]bool
	pendingCA       map[fleet.MachineName]bool
	pendingObserved map[fleet.MachineName]bool
}

type alarmKey struct {
	machine fleet.MachineName
	kind    audit.Kind
}

// entry is one machine's place. It is never removed.
type entry struct {
	host    atomic.Pointer[Host] // immutable snapshots
	session atomic.Pointer[Session]
	// seen is the newest sign of life in Unix seconds.
	seen atomic.Int64
	// heard is the newest sign of life of the instance of the hello. Calls that
	// don't name an instance don't count: they may be another one's. Guarded by mu.
	heard time.Time
	// flushed is what seen was when it was last written. Guarded by flushes
	// being one at a time.
	flushed int64
	// prevLife is the Hello.life of the stream that was replaced last: runs and
	// boots never come back, so one that does is a copy. Guarded by mu.
	prevLife string
	// events bounds what the host writes into the event log. Guarded by mu.
	events allowance
	// change orders durable changes of this machine, so that the store and the
	// memory see them in the same order. Taken before mu.
	change sync.Mutex
	// kept is when a report without transitions was kept as it was signed. Guarded by
	// change.
	kept time.Time
}

func (e *entry) view() Host {
	h := *e.host.Load()
	h.Connected = e.session.Load() != nil
	if s := e.seen.Load(); s != 0 {
		h.LastSeen = time.Unix(s, 0)
	}
	return h
}

// Open reads the register from the store.
func Open(ctx context.Context, o Options) (*Registry, error) {
	r := &Registry{
		o: o, index: map[fleet.MachineName]*entry{}, alarmed: map[alarmKey]time.Time{},
		pendingIdentity: map[fleet.MachineName]bool{}, pendingCA: map[fleet.MachineName]bool{},
		pendingObserved: map[fleet.MachineName]bool{},
	}
	if err := r.load(ctx); err != nil {
		return nil, fmt.Errorf("reading the register of machines: %w", err)
	}
	return r, nil
}

// Host returns the snapshot of one machine. LastSeen of a connected one may be
// older than now: the open stream is the sign of life.
func (r *Registry) Host(name fleet.MachineName) (Host, bool) {
	e := r.lookup(name)
	if e == nil {
		return Host{}, false
	}
	return e.view(), true
}

// Hosts returns snapshots of all machines, sorted by name.
func (r *Registry) Hosts() []Host {
	entries := r.all()
	hosts := make([]Host, 0, len(entries))
	for _, e := range entries {
		hosts = append(hosts, e.view())
	}
	slices.SortFunc(hosts, func(a, b Host) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return hosts
}

// CountConnected counts the hosts whose stream is open. It waits for whoever writes, so
// that it does not answer while one is stuck.
func (r *Registry) CountConnected() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.all() {
		if e.session.Load() != nil {
			n++
		}
	}
	return n
}

// SignedReport returns the newest report of a machine that brought transitions,
// as the host signed it; nil where there is none. It may come from an instance
// that another one has replaced since.
func (r *Registry) SignedReport(ctx context.Context, name fleet.MachineName) ([]byte, error) {
	kv, err := r.o.Store.Get(ctx, reportPrefix+string(name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the report of %s: %w", name, err)
	}
	return kv.Value, nil
}

// Role returns an operator's role.
func (r *Registry) Role(name fleet.OperatorName) (fleet.Role, bool) {
	o, ok := r.Operator(name)
	return o.Role, ok
}

// lookup returns the machine's entry, or nil.
func (r *Registry) lookup(name fleet.MachineName) *entry {
	r.indexMu.RLock()
	defer r.indexMu.RUnlock()
	return r.index[name]
}

// all returns every entry, in no order.
func (r *Registry) all() []*entry {
	r.indexMu.RLock()
	defer r.indexMu.RUnlock()
	entries := make([]*entry, 0, len(r.index))
	for _, e := range r.index {
		entries = append(entries, e)
	}
	return entries
}

// entry returns the machine's entry, making it where there is none.
func (r *Registry) entry(name fleet.MachineName) *entry {
	if e := r.lookup(name); e != nil {
		return e
	}
	r.indexMu.Lock()
	defer r.indexMu.Unlock()
	e := r.index[name]
	if e == nil {
		e = &entry{}
		e.host.Store(&Host{Name: name})
		r.index[name] = e
	}
	return e
}

// update changes a machine's snapshot.
func (r *Registry) update(e *entry, f func(*Host)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.updateLocked(f)
}

// updateLocked is update for who holds mu.
func (e *entry) updateLocked(f func(*Host)) {
	h := *e.host.Load()
	f(&h)
	e.host.Store(&h)
}

// touch notes a sign of life.
func (r *Registry) touch(e *entry) { e.seen.Store(r.o.Now().Unix()) }

// Admit judges a host's call by its certificate: not banned, and over the
// registered key. Where nothing is registered, or only what an older
// certificate brought, its key is registered on sight: the CA issued it, so this
// store has lost, or never had, what happened. Whatever order the keys of a
// machine are seen in after that, that of the youngest enrolment stays. Errors:
// ErrBanned, ErrSuperseded.
func (r *Registry) Admit(ctx context.Context, name fleet.MachineName, id Identity) error {
	e := r.entry(name)
	h := e.host.Load()
	if h.Banned != "" {
		return fmt.Errorf("%w: %s", ErrBanned, h.Banned)
	}
	if h.Identity.Fingerprint == id.Fingerprint {
		if h.Identity.shows(id) {
			r.noteCA(e, id)
		}
		r.touch(e)
		return nil
	}
	r.mu.Lock()
	h = e.host.Load()
	newer := h.Identity.yields(id)
	other := h.Identity.Fingerprint != id.Fingerprint
	if newer && other {
		e.updateLocked(func(h *Host) { h.Identity = h.Identity.replacedBy(id) })
		r.pendingIdentity[name] = true
	}
	r.mu.Unlock()
	switch {
	case !newer && other:
		r.alarm(ctx, name, KindSuperseded, "a certificate over a key that a later enrolment replaced was used")
		return ErrSuperseded
	case other && h.Identity.Known():
		// After a restored backup that is as it should be; else somebody has the
		// CA's key.
		r.alarm(ctx, name, KindReplaced, "a younger certificate over another key than the registered one was used, and no enrolment is on record")
	}
	r.touch(e)
	return nil
}

// noteCA remembers which CA the certificate is of that a host shows.
func (r *Registry) noteCA(e *entry, id Identity) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := e.host.Load()
	if h.Identity.Fingerprint != id.Fingerprint || !h.Identity.shows(id) {
		return
	}
	e.updateLocked(func(h *Host) { h.Identity.CA, h.Identity.Shown = id.CA, id.Shown })
	r.pendingCA[h.Name] = true
}

// alarmPause is how long an alarm about the same thing is not repeated.
const alarmPause = 5 * time.Minute

// alarm writes an alarm of a host, at most one of a kind in alarmPause. Where
// that fails, the log says so: the refusal that it tells of stands anyway.
func (r *Registry) alarm(ctx context.Context, name fleet.MachineName, kind audit.Kind, message string) {
	now := r.o.Now()
	key := alarmKey{name, kind}
	r.mu.Lock()
	last, again := r.alarmed[key]
	if again && now.Sub(last) < alarmPause && !now.Before(last) {
		r.mu.Unlock()
		return
	}
	r.alarmed[key] = now
	r.mu.Unlock()
	err := r.o.Log.Commit(ctx, audit.Change{Entries: []audit.Entry{{
		Actor: "host/" + string(name), Kind: kind, Machine: name, Message: message, Alarm: true,
	}}})
	if err != nil {
		r.o.Slog.Error("writing an alarm failed", "kind", string(kind), "machine", string(name), "message", message, "error", err)
	}
}

// Alarm writes an alarm about a host, rarely more than one of a kind in five
// minutes.
func (r *Registry) Alarm(ctx context.Context, name fleet.MachineName, kind audit.Kind, message string) {
	r.entry(name)
	r.alarm(ctx, name, kind, message)
}
