package sync

import (
	"context"
	"math/rand/v2"
	"time"
)

// jitter draws evenly from (0, d].
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(d))) + 1 //nolint:gosec // Spreads load; no secret.
}

// sleep waits for d in time awake, or a kick, or the end of ctx.
func sleep(ctx context.Context, d time.Duration, kick <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-kick:
		return nil
	case <-t.C:
		return nil
	}
}
