package enrol

import (
	"sync"
	"time"
)

const (
	// perSecond and burst bound enrolments of the whole fleet, and with them what
	// those can make the coordinator do who saw a join string.
	perSecond = 50
	burst     = 500
)

// bucket is a token bucket.
type bucket struct {
	mu    sync.Mutex // guards all fields
	level float64
	last  time.Time
}

func newBucket(now time.Time) *bucket { return &bucket{level: burst, last: now} }

// take says whether one more is allowed now.
func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if passed := now.Sub(b.last); passed > 0 {
		b.level = min(burst, b.level+passed.Seconds()*perSecond)
	}
	// Also when the clock stepped back, so that it counts on from there.
	b.last = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}
