package execute

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// askedClock is time in which a runner waits whether it is told to stop: it says that it
// does, and for how long a test decides.
type askedClock struct {
	stillClock

	asked chan<- struct{}
	over  <-chan time.Time
}

func (c askedClock) After(d time.Duration) (<-chan time.Time, func()) {
	if d != toldAfter {
		return c.stillClock.After(d)
	}
	c.asked <- struct{}{}
	return c.over, func() {}
}

// unheard has no service manager say that the host is shut down, as on a Mac.
func unheard(t *testing.T) {
	t.Helper()
	old := managerTells
	managerTells = func() bool { return false }
	t.Cleanup(func() { managerTells = old })
}

// TestFailedBeforeItIsTold: where nobody says that the host is shut down, a program that
// fails just before the runner is told to stop is not blamed, also one that is in a part
// that the host can be without; one that fails otherwise is.
func TestFailedBeforeItIsTold(t *testing.T) {
	unheard(t)
	brews := sh("echo brew...; exit 1")
	brews.Exec.Parts = []driver.Part{brew}
	busy := sh("exit 11")
	busy.Exec.BusyCodes = []int{11}
	link := driver.Step{Link: &driver.Link{Path: filepath.Join(t.TempDir(), "no", "link"), Target: "/x"}}
	for name, tt := range map[string]struct {
		step   driver.Step
		finish bool
		told   bool
		want   Outcome
	}{
		"exit code":              {sh("exit 1"), false, true, OutcomeStopped},
		"another signal":         {sh("kill -9 $$"), false, true, OutcomeStopped},
		"in a part":              {brews, false, true, OutcomeStopped},
		"a lock is held":         {busy, false, true, OutcomeStopped},
		"a link can't be made":   {link, false, true, OutcomeStopped},
		"no such program":        {driver.Step{Exec: &driver.Exec{Argv: []string{"/no/such"}}}, false, true, OutcomeStopped},
		"of a commit":            {sh("exit 1"), true, true, OutcomeStopped},
		"nobody is told":         {sh("exit 1"), false, false, OutcomeExit},
		"a link, nobody is told": {link, false, false, OutcomeError},
		"a commit, and nobody":   {sh("exit 1"), true, false, OutcomeExit},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := writeJSON(dir, fileAction, request{ID: "a", Action: action(time.Minute, tt.step), Finish: tt.finish}); err != nil {
				t.Fatal(err)
			}
			lock, err := takeLock(filepath.Join(dir, fileLock))
			if err != nil {
				t.Fatal(err)
			}
			asked, over := make(chan struct{}, 1), make(chan time.Time, 1)
			stop, ended := make(chan os.Signal, 1), make(chan error, 1)
			go func() { ended <- runAction(dir, lock, askedClock{asked: asked, over: over}, stop) }()
			<-asked
			if tt.told {
				stop <- unix.SIGTERM
			} else {
				over <- time.Time{}
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			var res Result
			if err := readJSON(dir, fileResult, &res); err != nil || res.Outcome != tt.want {
				t.Errorf("got %+v, %v, want %s", res, err, tt.want)
			}
			if log, err := os.ReadFile(filepath.Join(dir, fileLog)); err != nil || strings.Contains(string(log), "rest\n") {
				t.Errorf("%v, and what comes after was done:\n%s", err, log)
			}
		})
	}
}

// TestToldAtTheSameTime: a program that has failed, and a runner that is told to stop, is
// the same, whichever of the two was seen first, and whoever else could tell.
func TestToldAtTheSameTime(t *testing.T) {
	old := managerTells
	managerTells = func() bool { return true }
	t.Cleanup(func() { managerTells = old })
	stop := make(chan os.Signal, 1)
	r := run{stop: stop, clock: stillClock{}}
	if r.stopping(nil) {
		t.Error("nobody told it")
	}
	for range 50 {
		stop <- unix.SIGTERM
		if !r.stopping(nil) {
			t.Fatal("it was told")
		}
	}
	over := make(chan time.Time, 1)
	r.clock = askedClock{asked: make(chan struct{}, 100), over: over}
	for range 50 { // Both are there: which one a select takes is chance.
		stop <- unix.SIGTERM
		over <- time.Time{}
		if !r.toldWithin(toldAfter) {
			t.Fatal("it was told in time")
		}
		select {
		case <-over:
		default:
		}
	}
}
