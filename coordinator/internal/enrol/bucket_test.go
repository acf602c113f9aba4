package enrol

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := newBucket(now)
	take := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	if n := take(); n != burst {
		t.Errorf("%d at once, want %d", n, burst)
	}
	now = now.Add(time.Second)
	if n := take(); n != perSecond {
		t.Errorf("%d after a second, want %d", n, perSecond)
	}
	now = now.Add(time.Hour)
	if n := take(); n != burst {
		t.Errorf("%d after an hour, want %d", n, burst)
	}
	// A clock that steps back ten years does not stop enrolment for ten years.
	now = now.AddDate(-10, 0, 0)
	_ = take()
	now = now.Add(time.Second)
	if n := take(); n != perSecond {
		t.Errorf("%d a second after the clock stepped back, want %d", n, perSecond)
	}
}
