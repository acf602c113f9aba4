package execute

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/launchd"
	"github.com/cameronraysmith/fleet/agent/internal/launchd/launchdtest"
)

// onMac is an executor whose runners a stand-in for launchd starts.
func onMac(t *testing.T) (*Executor, *launchdtest.Launchd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := launchdtest.Start(t)
	dir, err := os.MkdirTemp("", "run") // Short: it holds sockets.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := &bytes.Buffer{} // Nobody else writes while a test looks.
	e, err := New(t.TempDir(), []string{self, "run-action"}, Options{
		Poll: 10 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil)),
		Units: &Units{Dir: dir, Manager: &launchd.Jobs{Launchctl: l.Launchctl(), Dir: filepath.Join(dir, "jobs"), Name: "fleet-activation"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Release)
	return e, l, log
}

func jobs(t *testing.T, e *Executor) []string {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join(e.units.Dir, "jobs", "*.plist"))
	if err != nil {
		t.Fatal(err)
	}
	return lists
}

// awaitCleared waits until the jobs of runs that ended are taken away, which is done once
// they are over and somebody looks.
func awaitCleared(t *testing.T, e *Executor, l *launchdtest.Launchd) {
	t.Helper()
	for range 1000 {
		if err := e.Prune(func(runs []string) []string { return runs }); err != nil {
			t.Fatal(err)
		}
		if len(jobs(t, e)) == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if left := l.Loaded(); len(left) > 0 || len(jobs(t, e)) > 0 {
		t.Errorf("left: %v, %v", left, jobs(t, e))
	}
}

// TestJobs: each run has a job of its own, whether it was prepared or not, that waits as
// one of systemd does, and is gone afterwards.
func TestJobs(t *testing.T) {
	t.Parallel()
	e, l, log := onMac(t)
	for range 2 {
		if err := e.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	loaded := l.Loaded()
	if len(loaded) != 1 || !strings.HasPrefix(loaded[0], "io.github.cameronraysmith.fleet-activation.") {
		t.Fatalf("loaded %v", loaded)
	}
	pid := l.PID(loaded[0])
	if got := ranAs(t, e, "a"); got != pid {
		t.Errorf("process %d ran it, not %d", got, pid)
	}
	ranAs(t, e, "b")
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	e.Release() // It has no run.
	awaitCleared(t, e, l)
	if log.String() != "" {
		t.Errorf("said:\n%s", log)
	}
	l.Do(func() {
		for label, list := range l.Lists {
			if list["KeepAlive"] != nil || list["RunAtLoad"] != true || list["AbandonProcessGroup"] != true {
				t.Errorf("%s: %v", label, list)
			}
		}
	})
}

// TestJobsAway: a launchd that loads nothing, or runs nothing of it, keeps no run from
// being carried out, and what it was asked for does not come later.
func TestJobsAway(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*launchdtest.Launchd){
		"refuses": func(l *launchdtest.Launchd) { l.Refuse = true },
		"idle":    func(l *launchdtest.Launchd) { l.Idle = true },
		"hangs":   func(l *launchdtest.Launchd) { l.Hangs = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, l, log := onMac(t)
			l.Do(func() { spoil(l) })
			began := time.Now() //nolint:forbidigo // What is to be in bounds.
			ranAs(t, e, "a")
			if took := time.Since(began); took > 15*time.Second { //nolint:forbidigo // As above.
				t.Errorf("after %s", took)
			}
			if !strings.Contains(log.String(), "service manager") {
				t.Errorf("said:\n%s", log)
			}
			l.Do(func() { l.Refuse, l.Idle, l.Hangs = false, false, false })
			ranAs(t, e, "soon")
			if n := len(l.Lists); n > 1 {
				t.Errorf("launchd was asked again at once: %d", n)
			}
			e.unitsFailed = e.unitsFailed.Add(-unitsAgainAfter)
			before := len(l.Lists)
			ranAs(t, e, "b")
			if len(l.Lists) != before+1 {
				t.Errorf("launchd was not asked again: %v", l.Lists)
			}
		})
	}
}

// TestJobOutlivesItsAgent: what a job carries out goes on without the executor, which
// ends while another job waits for nothing; the next one leaves it alone, finds how it
// ended, and takes away what is left of both.
func TestJobOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	e, l, _ := onMac(t)
	hold := fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("read x <$1", hold)), nil); err != nil {
		t.Fatal(err)
	}
	running := l.Loaded()[0]
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	e.Release()
	next, err := New(e.dir, e.runner, Options{Poll: 10 * time.Millisecond, Units: e.units})
	if err != nil {
		t.Fatal(err)
	}
	if l.PID(running) == 0 {
		t.Fatal("the activation of the agent before was ended")
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, next, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	awaitCleared(t, next, l)
}

// TestJobIsEnded: a runner that is a job is ended like any other, with its program.
func TestJobIsEnded(t *testing.T) {
	t.Parallel()
	e, l, _ := onMac(t)
	ready := fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("echo $$ >$1; exec sleep 600", ready)), nil); err != nil {
		t.Fatal(err)
	}
	program := atoi(t, strings.TrimSpace(readLine(t, ready)))
	if err := syscall.Kill(l.PID(l.Loaded()[0]), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeLost {
		t.Errorf("got %+v", res)
	}
	awaitDeath(t, program)
	awaitCleared(t, e, l)
}
