package registry

import "time"

const (
	// eventBurst is how many events a host may write at once: all that an agent
	// keeps while it is away, and some.
	eventBurst = 12_000
	// eventEvery is how often it may write one in the long run: a disk lasts for
	// years whatever hosts say, and an honest host writes some ten a day.
	eventEvery = 10 * time.Second
)

// allowance is a token bucket; the zero one is full.
type allowance struct {
	used int
	last time.Time
}

// take says whether n more are allowed now.
func (a *allowance) take(n int, now time.Time) bool {
	if passed := now.Sub(a.last); passed < 0 || a.used == 0 {
		a.last = now // Also when the clock stepped back, so that it counts on from there.
	} else if back := int(min(passed/eventEvery, eventBurst)); back > 0 {
		a.used = max(0, a.used-back)
		a.last = a.last.Add(time.Duration(back) * eventEvery)
		if a.used == 0 {
			a.last = now
		}
	}
	if a.used+n > eventBurst {
		return false
	}
	a.used += n
	return true
}

// spend takes from the host's allowance of events. Errors: ErrTooOften.
func (r *Registry) spend(e *entry, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !e.events.take(n, r.o.Now()) {
		return ErrTooOften
	}
	return nil
}

// refund gives back what was spent on events that could not be written: a full
// disk must not use up what the host needs once there is room.
func (r *Registry) refund(e *entry, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.events.used = max(0, e.events.used-n)
}
