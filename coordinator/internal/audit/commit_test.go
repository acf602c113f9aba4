package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// gate lets the test decide when a transaction goes on, and how it ends.
type gate struct {
	store.Store
	enter chan struct{} // one element for each transaction that begins
	leave chan struct{} // one element lets one go on

	mu   sync.Mutex
	txns int
	fail func(txn func() (uint64, error)) (uint64, error) // replaces the next one
}

func newGate(s store.Store) *gate {
	return &gate{Store: s, enter: make(chan struct{}, 1000), leave: make(chan struct{}, 1000)}
}

func (g *gate) Txn(ctx context.Context, conds []store.Cond, ops []store.Op) (uint64, error) {
	g.enter <- struct{}{}
	<-g.leave
	g.mu.Lock()
	g.txns++
	fail := g.fail
	g.fail = nil
	g.mu.Unlock()
	txn := func() (uint64, error) { return g.Store.Txn(ctx, conds, ops) }
	if fail != nil {
		return fail(txn)
	}
	return txn()
}

// queued waits until n changes wait.
func queued(l *Log, n int) {
	for {
		l.queueMu.Lock()
		have := len(l.queue)
		l.queueMu.Unlock()
		if have == n {
			return
		}
		runtime.Gosched()
	}
}

// waiting starts a commit for each change, in this order, behind a first one
// that is held up; what it returns lets them all go and gives their errors.
func waiting(t *testing.T, l *Log, g *gate, changes ...Change) func() []error {
	t.Helper()
	errs := make([]error, len(changes)+1)
	var all sync.WaitGroup
	all.Go(func() { errs[0] = l.Commit(t.Context(), said("first")) })
	<-g.enter
	for i, c := range changes {
		all.Go(func() { errs[i+1] = l.Commit(t.Context(), c) })
		queued(l, i+1)
	}
	return func() []error {
		close(g.leave)
		all.Wait()
		return errs
	}
}

func TestGroupCommit(t *testing.T) {
	g := newGate(newStore(t))
	l := newLog(t, g)
	var changes []Change
	for i := range 120 {
		changes = append(changes, Change{
			Ops:     []store.Op{{Key: fmt.Sprintf("k/%d", i), Value: []byte("v")}},
			Entries: said(fmt.Sprint(i)).Entries,
		})
	}
	for i, err := range waiting(t, l, g, changes...)() {
		if err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	// 240 operations, and a head with each 99 of them, behind the first.
	if want := 1 + 3; g.txns != want {
		t.Errorf("%d transactions, want %d", g.txns, want)
	}
	got := messages(t, l)
	for i := range changes {
		if got[i+1] != fmt.Sprint(i) {
			t.Fatalf("event %d is %q", i+2, got[i+1])
		}
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGroupsApart: what can't share a transaction does not, and order is kept.
func TestGroupsApart(t *testing.T) {
	g := newGate(newStore(t))
	l := newLog(t, g)
	set := func(key, value string, conds ...store.Cond) Change {
		return Change{Conds: conds, Ops: []store.Op{{Key: key, Value: []byte(value)}}, Entries: said(key + value).Entries}
	}
	large := func(key string) Change {
		return Change{Ops: []store.Op{{Key: key, Value: make([]byte, 600<<10)}}, Entries: said(key).Entries}
	}
	errs := waiting(t, l, g,
		set("a", "1"), set("b", "1"), // together
		set("a", "2"), // same key
		set("a", "3", store.Cond{Key: "a", Revision: 1 << 40}), // conflict
		set("c", "1", store.Cond{Key: "c"}),
		large("d"), large("e"), // too large together
		set("f", "1"),
	)()
	for i, err := range errs {
		if conflict := i == 4; errors.Is(err, store.ErrConflict) != conflict || (err == nil) == conflict {
			t.Errorf("change %d: %v", i, err)
		}
	}
	want := []string{"first", "a1", "b1", "a2", "c1", "d", "e", "f1"}
	if got := messages(t, l); !slices.Equal(got, want) {
		t.Errorf("messages %v, want %v", got, want)
	}
	if kv, err := g.Get(t.Context(), "a"); err != nil || string(kv.Value) != "2" {
		t.Errorf("a is %q, %v", kv.Value, err)
	}
	if want := 7; g.txns != want { // first; a1 b1; a2; a3; c1; d; e f1
		t.Errorf("%d transactions, want %d", g.txns, want)
	}
	if err := l.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	g := newGate(newStore(t))
	l := newLog(t, g)
	goOn := waiting(t, l, g)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- l.Commit(ctx, said("never")) }()
	queued(l, 1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := goOn()[0]; err != nil {
		t.Error(err)
	}
	// The one who writes does not stop in the middle.
	ctx, cancel = context.WithCancel(t.Context())
	g.mu.Lock()
	g.fail = func(txn func() (uint64, error)) (uint64, error) { cancel(); return txn() }
	g.mu.Unlock()
	if err := l.Commit(ctx, said("begun")); err != nil {
		t.Errorf("a change that was begun: %v", err)
	}
	if err := l.Commit(ctx, said("never")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got, want := messages(t, l), []string{"first", "begun"}; !slices.Equal(got, want) {
		t.Errorf("messages %v, want %v", got, want)
	}
}

// TestFailingStore: an error is told to everybody in the group, and whether
// the transaction was written or not, the chain goes on from what is there.
func TestFailingStore(t *testing.T) {
	broken := errors.New("broken")
	for _, wrote := range []bool{false, true} {
		g := newGate(newStore(t))
		l := newLog(t, g)
		goOn := waiting(t, l, g, said("a"), said("b"))
		g.mu.Lock()
		g.fail = func(txn func() (uint64, error)) (uint64, error) {
			// It is "first" that fails; a and b come after it.
			if wrote {
				if _, err := txn(); err != nil {
					t.Error(err)
				}
			}
			return 0, broken
		}
		g.mu.Unlock()
		errs := goOn()
		if !errors.Is(errs[0], broken) || errs[1] != nil || errs[2] != nil {
			t.Errorf("wrote %v: %v", wrote, errs)
		}
		want := []string{"a", "b"}
		if wrote {
			want = []string{"first", "a", "b"}
		}
		if got := messages(t, l); !slices.Equal(got, want) {
			t.Errorf("wrote %v: messages %v, want %v", wrote, got, want)
		}
		if err := l.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestTwoWriters: two processes on one store do not fork the chain.
func TestTwoWriters(t *testing.T) {
	s := newStore(t)
	logs := []*Log{newLog(t, s), newLog(t, s)}
	const each = 40
	var g errgroup.Group
	for w, l := range logs {
		g.Go(func() error {
			for i := range each {
				for {
					err := l.Commit(t.Context(), said(fmt.Sprint(w, i)))
					if err == nil {
						break
					}
					if !errors.Is(err, store.ErrConflict) {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := len(messages(t, logs[0])); n != 2*each {
		t.Errorf("%d events, want %d", n, 2*each)
	}
	if err := logs[1].Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

func BenchmarkCommit(b *testing.B) {
	l := newLog(b, newStore(b))
	for b.Loop() {
		mustCommit(b, l, said("something happened"))
	}
}

// BenchmarkGroupCommit is many commits at once: what grouping brings.
func BenchmarkGroupCommit(b *testing.B) {
	l := newLog(b, newStore(b))
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Commit(b.Context(), said("something happened")); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
