package deadman

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
)

// TestToldOnTheWayBack: a switch that is told to end leaves the way back to itself, but
// where the host is shut down: there it ends it, and whoever waits after the boot goes it
// to its end.
func TestToldOnTheWayBack(t *testing.T) {
	for name, stopping := range map[string]bool{"shutdown": true, "replaced": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, time.Hour)
			dir := t.TempDir()
			begun, hold := filepath.Join(dir, "begun"), filepath.Join(dir, "hold")
			w.order.Rollback = action("touch '" + begun + "'; while [ -e '" + hold + "' ]; do sleep 0.01; done; echo $LAB >>" + w.back)
			if err := errors.Join(os.WriteFile(hold, nil, 0o600), w.write(w.order)); err != nil {
				t.Fatal(err)
			}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			p := process{
				dir: w.dir, runner: []string{exe, asRunner}, now: time.Now, out: &bytes.Buffer{}, idle: time.Hour, pause: time.Millisecond,
				stopping: func(context.Context) bool { return stopping },
			}
			ctx, tell := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- p.fire(ctx, &w.order) }()
			await(t, begun)
			tell(errTold)
			if err := <-ended; !errors.Is(err, errTold) {
				t.Fatalf("got %v", err)
			}
			if !p.unfinished(&w.order) {
				t.Error("it is called done")
			}
			e, err := execute.New(w.order.Runs, p.runner, execute.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if st, err := e.Status(w.order.Back[0]); err != nil || (st.Phase == execute.PhaseDone) != stopping {
				t.Errorf("the way back: %+v, %v", st, err)
			}
			if err := os.Remove(hold); err != nil {
				t.Fatal(err)
			}
			if err := p.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if o := w.outcome(); !o.Back || w.went() != 1 {
				t.Errorf("got %+v, %d times back", o, w.went())
			}
		})
	}
}

// TestToldWhileItWaits: the process itself ends, well, and leaves the order.
func TestToldWhileItWaits(t *testing.T) {
	w := newWorld(t, time.Hour)
	w.arm()
	w.children.mu.Lock()
	pid := w.children.pids[0]
	w.children.mu.Unlock()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("it ended with %v, %v", status, err)
	}
	if id, err := w.Order(); err != nil || id != w.order.ID {
		t.Errorf("the order is %q, %v", id, err)
	}
}

// await waits until a file is there.
func await(t *testing.T, file string) {
	t.Helper()
	for range 6000 {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s never came", file)
}
