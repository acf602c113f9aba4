package agent

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestAfterSleep: wall time goes on while the machine sleeps, the monotonic
// clock does not. What was heard before says nothing about the network now.
func TestAfterSleep(t *testing.T) {
	l := newLink()
	now := time.Now()
	if l.isOnline(now) || l.isStale(now) {
		t.Error("something is known before the first answer")
	}
	l.up(now)
	if !l.isOnline(now) || l.isStale(now) {
		t.Error("not online after the stream opened")
	}
	woken := now.Add(8 * time.Hour)
	if l.isOnline(woken) || !l.isStale(woken) {
		t.Error("online after a night asleep, by the stream of the evening")
	}
	l.answered(woken)
	if !l.isOnline(woken) {
		t.Error("not online after an answer")
	}
	l.down(fleet.Reason{Code: fleet.ReasonUnreachable})
	if !l.isOnline(woken) {
		t.Error("a stream that just broke is no proof of being offline")
	}
}

// TestRenewsOnceWithAClockAhead: to a clock days ahead a new certificate looks
// old at once.
func TestRenewsOnceWithAClockAhead(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.crash()
	offset := newOffset()
	h.config.Now = offset.now
	a, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	offset.add(5 * 24 * time.Hour)
	r := renewal{}
	for range 3 {
		a.renewIfDue(t.Context(), a.bound.Load(), &r)
	}
	if n := h.coord.Calls("Renew"); n != 1 {
		t.Errorf("renewed %d times", n)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestSleepDuringVerification: a lid that was closed midway is no failure.
func TestSleepDuringVerification(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "one")
	h.crash()
	h.coord.Stop()
	for name, slept := range map[string]time.Duration{"awake": 0, "asleep": 8 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			var looks atomic.Int64
			h.config.Now = func() time.Time {
				if looks.Add(1) == 1 {
					return time.Now()
				}
				return time.Now().Add(slept)
			}
			a, err := h.open()
			if err != nil {
				t.Fatal(err)
			}
			looks.Store(0)
			g, _ := h.generation(1, "what it never says", "")
			st := a.journal.State()
			p := st.Profile(fleet.System)
			w := a.worker(fleet.System)
			if err := w.verifyWithin(t.Context(), trial{of: p.Current, doc: g, deadline: 200 * time.Millisecond}); err != nil {
				t.Error(err)
			}
			if overdue := slept == 0; w.facts.overdue != overdue || p.Current.Ref != first {
				t.Errorf("overdue: %v, want %v", w.facts.overdue, overdue)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
