package execute

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEnd: a run that goes on is ended with a result; one whose runner is frozen is
// killed, with its program; of what never began or has ended nothing becomes.
func TestEnd(t *testing.T) {
	for name, frozen := range map[string]bool{"its runner listens": false, "its runner is frozen": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, ready := executor(t, t.TempDir()), fifo(t)
			if err := e.End(t.Context(), "a"); err != nil {
				t.Errorf("before it began: %v", err)
			}
			if err := e.Start(t.Context(), "a", action(time.Minute, sh("echo $$ $PPID >$1; exec sleep 600", ready)), nil); err != nil {
				t.Fatal(err)
			}
			pids := strings.Fields(readLine(t, ready))
			program, runner := atoi(t, pids[0]), atoi(t, pids[1])
			want := OutcomeStopped
			if frozen {
				want = OutcomeLost
				if err := unix.Kill(runner, unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := e.End(t.Context(), "a"); err != nil {
					t.Error(err)
				}
			}
			if alive(t, program) {
				t.Error("the program goes on")
			}
			if res := waitFor(t, e, "a"); res.Outcome != want {
				t.Errorf("got %+v, want %s", res, want)
			}
		})
	}
}
