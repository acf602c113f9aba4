package deadman

import (
	"context"
	"testing"
	"time"
)

// TestPrepared: an activation takes the process that was started ahead, also where
// that takes its time, and another one where it never comes.
func TestPrepared(t *testing.T) {
	for name, late := range map[string]time.Duration{"comes late": 100 * time.Millisecond, "never comes": time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, time.Hour)
			waited := 0
			var timer *time.Timer
			w.start = func(ctx context.Context, dir, log string, ahead bool) error {
				if !ahead {
					waited++
					return w.children.Start(ctx, dir, log, ahead)
				}
				timer = time.AfterFunc(late, func() {
					if err := w.children.Start(ctx, dir, log, ahead); err != nil {
						t.Error(err)
					}
				})
				return nil
			}
			if err := w.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.arm()
			if never := timer.Stop(); never != (waited == 1) || waited > 1 {
				t.Errorf("%d more were started", waited)
			}
		})
	}
}
