package deadman

import (
	"context"
	"testing"
	"time"
)

// TestPrepared: an activation takes the process that was started ahead, also where
// that takes its time, and another one where it never comes.
func TestPrepared(t *testing.T) {
	for name, c := range map[string]struct{ late, starts time.Duration }{
		"comes late":  {100 * time.Millisecond, time.Minute},
		"never comes": {time.Hour, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, time.Hour)
			w.starts = c.starts
			waited := 0
			var timer *time.Timer
			w.start = func(ctx context.Context, dir, log string, ahead bool) error {
				if !ahead {
					waited++
					return w.children.Start(ctx, dir, log, ahead)
				}
				timer = time.AfterFunc(c.late, func() {
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
			if never := timer.Stop(); never != (waited > 0) {
				t.Errorf("%d more were started", waited)
			}
		})
	}
}
