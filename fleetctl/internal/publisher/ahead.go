package publisher

import (
	"context"
	"sync"
)

// ahead begins to get something, for while nix works. wait waits for it, and gets it
// again where that failed; end waits until nobody gets it any more.
func ahead[T any](ctx context.Context, get func(context.Context) (T, error)) (wait func() (T, error), end func()) {
	early, cancel := context.WithCancel(ctx)
	begun := sync.OnceValues(func() (T, error) { return get(early) })
	go begun() //nolint:errcheck // Whoever waits for it is told.
	wait = func() (T, error) {
		got, err := begun()
		if err != nil {
			return get(ctx)
		}
		return got, nil
	}
	return wait, func() {
		cancel()
		_, _ = begun()
	}
}
