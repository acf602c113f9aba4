package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/bolt"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counting counts what is written.
type counting struct {
	store.Store
	mu   sync.Mutex
	txns int
	ops  int
	err  error
}

// fail has all transactions fail; nil lets them work again.
func (c *counting) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *counting) Txn(ctx context.Context, conds []store.Cond, ops []store.Op) (uint64, error) {
	c.mu.Lock()
	c.txns++
	c.ops += len(ops)
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return c.Store.Txn(ctx, conds, ops)
}

type harness struct {
	*Registry
	store *counting
	now   time.Time
	path  string
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{now: time.Unix(1_800_000_000, 0), path: filepath.Join(t.TempDir(), "fleet.db")}
	h.open(t)
	t.Cleanup(func() { _ = h.store.Close() })
	return h
}

func (h *harness) open(t *testing.T) {
	t.Helper()
	db, err := bolt.Open(h.path)
	if err != nil {
		t.Fatal(err)
	}
	h.store = &counting{Store: db}
	now := func() time.Time { return h.now }
	log, err := audit.Open(t.Context(), h.store, now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h.Registry, err = Open(t.Context(), Options{Store: h.store, Log: log, Actor: "coordinator/c", Now: now, Slog: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
}

func (h *harness) reopen(t *testing.T) {
	t.Helper()
	if err := h.store.Close(); err != nil {
		t.Fatal(err)
	}
	h.open(t)
}

func machine(i int) fleet.MachineName { return fleet.MachineName(fmt.Sprintf("m%d", i)) }

// TestBurst connects a fleet at once: nothing is written for it, and what it
// leads to is written in a few transactions.
func TestBurst(t *testing.T) {
	h := newHarness(t)
	const n = 2000
	before := h.store.txns
	sessions := make([]*Session, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var err error
			if sessions[i], err = h.Attach(t.Context(), machine(i), Hello{Instance: "i", Boot: "b", Version: "v"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if h.store.txns != before {
		t.Errorf("%d transactions for connections", h.store.txns-before)
	}
	if err := h.Flush(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if wrote := h.store.txns - before; wrote == 0 || wrote > 4 {
		t.Errorf("%d transactions for %d signs of life", wrote, n)
	}
	before = h.store.txns
	h.now = h.now.Add(FlushEvery)
	if err := h.Flush(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if h.store.txns != before {
		t.Error("an idle fleet is written again and again")
	}

	if got := h.Wake(WakeDesired, machine(1), machine(2), "nowhere"); got != 2 || h.Connected() != n {
		t.Errorf("%d woken, %d connected", got, h.Connected())
	}
	for i, s := range sessions {
		want := Wake(0)
		if i == 1 || i == 2 {
			want = WakeDesired
			<-s.C
		}
		if got := s.Take(); got != want {
			t.Errorf("%s is woken for %d, want %d", machine(i), got, want)
		}
	}
	last := h.now
	h.reopen(t)
	host, ok := h.Host(machine(7))
	if !ok || host.Connected || host.Hello.Version != "v" || last.Sub(host.LastSeen) > time.Minute {
		t.Errorf("after a restart: %+v", host)
	}
}

// TestWakesAddUp wakes a host that does not read: nothing blocks, nothing is
// queued, nothing is lost.
func TestWakesAddUp(t *testing.T) {
	h := newHarness(t)
	s, err := h.Attach(t.Context(), "slow", Hello{Instance: "i"})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		h.Wake(WakeDesired, "slow")
		h.Wake(WakeReport, "slow")
	}
	<-s.C
	if got := s.Take(); got != WakeDesired|WakeReport {
		t.Errorf("woken for %d", got)
	}
	select {
	case <-s.C:
		t.Error("something is queued")
	default:
	}
	h.Stop()
	<-s.C
	if !s.Take().Cut() || !errors.Is(s.Cause(), ErrStopping) {
		t.Errorf("cut for %v", s.Cause())
	}
	h.Detach(s)
	if _, err := h.Attach(t.Context(), "slow", Hello{Instance: "i"}); !errors.Is(err, ErrStopping) {
		t.Errorf("attached to what is stopping: %v", err)
	}
}

// TestAdmitOnSight registers identities of which the store knows nothing, and
// keeps the younger of two.
func TestAdmitOnSight(t *testing.T) {
	h := newHarness(t)
	old := Identity{Fingerprint: "old", NotBefore: h.now.Add(-time.Hour), Expires: h.now.Add(time.Hour)}
	young := Identity{Fingerprint: "young", NotBefore: h.now, Expires: h.now.Add(time.Hour)}
	for _, tt := range []struct {
		id   Identity
		want error
	}{{old, nil}, {old, nil}, {young, nil}, {old, ErrSuperseded}, {young, nil}} {
		if err := h.Admit(t.Context(), "galena", tt.id); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.id.Fingerprint, err, tt.want)
		}
	}
	if err := h.Flush(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	h.reopen(t)
	if err := h.Admit(t.Context(), "galena", old); !errors.Is(err, ErrSuperseded) {
		t.Errorf("after a restart: %v", err)
	}
}

// TestFlushGroups writes what a wiped store leads to in few transactions.
func TestFlushGroups(t *testing.T) {
	h := newHarness(t)
	const n = 400
	for i := range n {
		if err := h.Admit(t.Context(), machine(i), Identity{Fingerprint: "f", NotBefore: h.now}); err != nil {
			t.Fatal(err)
		}
		r := &fleet.Report{Machine: machine(i), InstanceID: "i", Mode: fleet.ModeObserve}
		if _, err := h.Report(t.Context(), machine(i), r, nil); err != nil {
			t.Fatal(err)
		}
	}
	before := h.store.txns
	if err := h.Flush(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if wrote := h.store.txns - before; wrote > 2*n/flushChunk+2 {
		t.Errorf("%d transactions for %d machines", wrote, n)
	}
	h.reopen(t)
	for i := range n {
		if host, _ := h.Host(machine(i)); !host.Identity.Known() || host.Observed.Mode != fleet.ModeObserve {
			t.Fatalf("%s is lost: %+v", machine(i), host)
		}
	}

	// What could not be written is written later.
	if err := h.Admit(t.Context(), "late", Identity{Fingerprint: "f", NotBefore: h.now}); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Flush(ended, false); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := h.Flush(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	h.reopen(t)
	if host, _ := h.Host("late"); !host.Identity.Known() {
		t.Error("what failed once is lost")
	}
}

func TestInventory(t *testing.T) {
	h := newHarness(t)
	ctx := t.Context()
	var machines []Machine
	for i := range 250 {
		machines = append(machines, Machine{Name: machine(i), Class: fleet.ClassLinux})
	}
	operators := []Operator{{Name: "a", Role: fleet.RoleAdmin}, {Name: "b", Role: fleet.RoleViewer}}
	apply := func(want bool, ms []Machine, os []Operator) {
		t.Helper()
		if got, err := h.ApplyInventory(ctx, "operator/a", "", ms, os); err != nil || got != want {
			t.Errorf("changed %t, want %t: %v", got, want, err)
		}
	}
	apply(true, machines, operators)
	apply(false, machines, operators)
	apply(false, machines, nil)
	machines[3].Disabled = true
	apply(true, machines[:200], operators[:1])
	if _, err := h.ApplyInventory(ctx, "operator/a", "", machines, operators[1:]); !errors.Is(err, ErrNoAdmin) {
		t.Errorf("locked everybody out: %v", err)
	}
	h.reopen(t)
	listed := 0
	for _, host := range h.Hosts() {
		if host.Machine != nil {
			listed++
		}
	}
	m3, _ := h.Host(machine(3))
	_, gone := h.Role("b")
	if role, ok := h.Role("a"); listed != 200 || !m3.Machine.Disabled || gone || !ok || role != fleet.RoleAdmin {
		t.Errorf("after a restart: %d machines, %+v, b there: %t", listed, m3.Machine, gone)
	}
}

// TestConcurrentReports lets many hosts report at once, each a few times.
func TestConcurrentReports(t *testing.T) {
	h := newHarness(t)
	const hosts, rounds = 40, 5
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			for n := range uint64(rounds) {
				r := &fleet.Report{
					Machine: machine(i), InstanceID: "i", Mode: fleet.ModeManage,
					Transitions: []fleet.Transition{{Seq: 2*n + 1, Profile: fleet.System}, {Seq: 2*n + 2, Profile: fleet.System}},
				}
				acked, err := h.Report(t.Context(), machine(i), r, []byte("envelope"))
				if err != nil || acked != 2*n+2 {
					t.Errorf("acknowledged %d: %v", acked, err)
				}
			}
		})
	}
	wg.Wait()
	h.reopen(t)
	for i := range hosts {
		if host, _ := h.Host(machine(i)); host.Observed.Acked != 2*rounds {
			t.Errorf("%s: %d durable", machine(i), host.Observed.Acked)
		}
	}
}

// TestKeptTransitionsAreBounded keeps the newest and no more.
func TestKeptTransitionsAreBounded(t *testing.T) {
	h := newHarness(t)
	for start := uint64(1); start < 1000; start += 250 {
		r := &fleet.Report{Machine: "galena", InstanceID: "i", Mode: fleet.ModeManage}
		for seq := start; seq < start+250; seq++ {
			r.Transitions = append(r.Transitions, fleet.Transition{Seq: seq, Profile: fleet.System})
		}
		if _, err := h.Report(t.Context(), "galena", r, nil); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for _, err := range store.All(t.Context(), h.store, transitionPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		kept++
	}
	if kept != keptTransitions {
		t.Errorf("%d transitions kept, want %d", kept, keptTransitions)
	}
}
