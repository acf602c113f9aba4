package nixdriver

import (
	"os"
	"sync"
	"time"
)

// recordedWithin is how long a path that was built may take to be on record, so that those
// who clear away know that it is needed.
const recordedWithin = time.Minute

// spared are the roots of homes that are being built, or were just now, by their places.
// Others clear away meanwhile, unlike beside other builds: a user's nix takes as long as
// that user likes. The roots are shared by all drivers, and so is this.
var spared = struct {
	mu sync.Mutex
	// until is when they are spared no longer; its zero value for as long as is built.
	until map[string]time.Time
}{until: map[string]time.Time{}}

// spare spares a root until it is let go.
func spare(place string) (letGo func()) {
	spared.mu.Lock()
	defer spared.mu.Unlock()
	spared.until[place] = time.Time{}
	return func() {
		spared.mu.Lock()
		defer spared.mu.Unlock()
		delete(spared.until, place)
	}
}

// spareBuilt spares a root until it is on record.
func spareBuilt(place string) {
	spared.mu.Lock()
	defer spared.mu.Unlock()
	spared.until[place] = time.Now().Add(recordedWithin) //nolint:forbidigo // By the monotonic clock.
}

// removeRoot removes a root, unless it is spared. Nobody begins to spare one meanwhile.
func removeRoot(place string) (removed bool, err error) {
	spared.mu.Lock()
	defer spared.mu.Unlock()
	if until, is := spared.until[place]; is {
		if until.IsZero() || time.Now().Before(until) { //nolint:forbidigo // As above.
			return false, nil
		}
		delete(spared.until, place)
	}
	return true, os.Remove(place) //nolint:wrapcheck // It names the place.
}
