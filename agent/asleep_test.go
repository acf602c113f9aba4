package agent

import (
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
