package pace

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestMeter: what a Reader puts up with, a Meter does too.
func TestMeter(t *testing.T) {
	for _, tc := range []struct {
		name     string
		pieces   int
		size     int64
		interval time.Duration
		busy     time.Duration // between two waits
		want     error
	}{
		{"fast", 1000, 100, time.Millisecond, 0, nil},
		{"just fast enough", 200, 112, time.Second, 0, nil},
		{"just too slow", 200, 90, time.Second, 0, ErrStalled},
		{"a trickle", 100000, 1, time.Second, 0, ErrStalled},
		{"empty pieces, without a pause", 1 << 30, 0, time.Millisecond, 0, ErrStalled},
		{"a short end", 5, 10, time.Second, 0, nil},
		{"nothing at all", 1, 1, time.Hour, 0, ErrStalled},
		{"slow itself", 20, 10, 400 * time.Millisecond, time.Minute, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancelCause(t.Context())
				defer stop(nil)
				m := NewMeter(limit, stop)
				start := time.Now()
				for i := 0; i < tc.pieces && ctx.Err() == nil; i++ {
					m.Wait(func() int64 {
						select {
						case <-ctx.Done():
							return 0
						case <-time.After(tc.interval):
							return tc.size
						}
					})
					time.Sleep(tc.busy)
				}
				if got := context.Cause(ctx); !errors.Is(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				if took := time.Since(start); tc.want != nil && took > limit.Window+time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
