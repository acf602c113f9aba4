package execute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
)

// launching is an executor whose runners a stand-in for systemd starts.
func launching(t *testing.T) (*Executor, *systemdtest.Server, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := systemdtest.Start(t)
	s.Do(func() { s.Runs = true })
	dir, err := os.MkdirTemp("", "run") // Short: it holds sockets.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	log := &bytes.Buffer{} // Nobody else writes while a test looks.
	e, err := New(t.TempDir(), []string{self, "run-action"}, Options{
		Poll: 10 * time.Millisecond, Units: &Units{Manager: Systemd{Address: s.Address}, Dir: dir},
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Release)
	return e, s, log
}

// nth is the process of the nth service; 0 where there is none.
func nth(s *systemdtest.Server, n int) (pid int) {
	s.Do(func() {
		if n < len(s.Processes) {
			pid = s.Processes[n].Process.Pid
		}
	})
	return pid
}

// TestUnits: each run has a service of its own, whether it was prepared or not, and
// nothing is left of them.
func TestUnits(t *testing.T) {
	t.Parallel()
	e, s, log := launching(t)
	for range 2 {
		if err := e.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	if got := ranAs(t, e, "a"); got != nth(s, 0) || nth(s, 1) != 0 {
		t.Errorf("process %d ran it, not %d", got, nth(s, 0))
	}
	if got := ranAs(t, e, "b"); got != nth(s, 1) {
		t.Errorf("process %d ran it, not %d", got, nth(s, 1))
	}
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	e.Release()
	awaitDeath(t, nth(s, 2))
	left, err := filepath.Glob(filepath.Join(e.units.Dir, "*"))
	if err != nil || len(left) > 0 || log.String() != "" {
		t.Errorf("left: %v, %v; said:\n%s", left, err, log)
	}
	s.Do(func() {
		for name, settings := range s.Started {
			if !strings.HasPrefix(name, "fleet-activation-") || settings["KillMode"] != "process" || settings["Restart"] != nil {
				t.Errorf("%s: %v", name, settings)
			}
		}
	})
}

// TestUnitsAway: a systemd that starts nothing, and says so or not, keeps no run from
// being carried out.
func TestUnitsAway(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*systemdtest.Server){
		"refuses": func(s *systemdtest.Server) { s.Refuse = true },
		"silent":  func(s *systemdtest.Server) { s.Runs = false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, s, log := launching(t)
			s.Do(func() { spoil(s) })
			ranAs(t, e, "a")
			if n := nth(s, 0); n != 0 || !strings.Contains(log.String(), "service manager") {
				t.Errorf("%d ran; said:\n%s", n, log)
			}
			s.Do(func() { s.Refuse, s.Runs = false, true })
			ranAs(t, e, "soon")
			if n := nth(s, 0); n != 0 {
				t.Errorf("systemd was asked again at once: %d", n)
			}
			e.unitsFailed = e.unitsFailed.Add(-unitsAgainAfter)
			if got := ranAs(t, e, "b"); got != nth(s, 0) {
				t.Errorf("process %d ran it, not %d", got, nth(s, 0))
			}
		})
	}
}

// TestUnitIsGone: a runner that died while it waited, or does not answer, is replaced
// by another service, and never takes its run later.
func TestUnitIsGone(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			e, s, _ := launching(t)
			if err := e.Prepare(); err != nil {
				t.Fatal(err)
			}
			if err := e.waiting.connect(); err != nil { // It is there.
				t.Fatal(err)
			}
			pid := nth(s, 0)
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
			if sig == syscall.SIGSTOP {
				awaitStop(t, pid)
			} else {
				awaitDeath(t, pid)
			}
			if got := ranAs(t, e, "a"); got != nth(s, 1) {
				t.Errorf("process %d ran it, not %d", got, nth(s, 1))
			}
			awaitDeath(t, pid)
		})
	}
}

// awaitStop waits until all of a process is stopped, which takes its threads a moment.
func awaitStop(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("looking at %d: %v", pid, err)
		}
		running := false
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			if err != nil {
				t.Fatal(err)
			}
			running = running || !bytes.Contains(stat, []byte(") T "))
		}
		if !running {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%d does not stop", pid)
}

// TestUnitPreparedAnew: one that died is not waited for.
func TestUnitPreparedAnew(t *testing.T) {
	t.Parallel()
	e, s, _ := launching(t)
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := e.waiting.connect(); err != nil {
		t.Fatal(err)
	}
	die(t, nth(s, 0), syscall.SIGKILL)
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	if got := ranAs(t, e, "a"); got != nth(s, 1) {
		t.Errorf("process %d ran it, not %d", got, nth(s, 1))
	}
}

// TestUnitOutlivesItsAgent: what a service carries out goes on without the executor,
// which ends while another one waits for nothing; a third finds how it ended.
func TestUnitOutlivesItsAgent(t *testing.T) {
	t.Parallel()
	e, s, _ := launching(t)
	hold := fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("read x <$1", hold)), nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := e.waiting.connect(); err != nil {
		t.Fatal(err)
	}
	// As the end of this process would.
	_ = e.children["a"].alive.Close()
	_ = e.waiting.socket.Close()
	e.waiting = nil
	awaitDeath(t, nth(s, 1))
	other := executor(t, e.dir)
	if st, err := other.Status("a"); err != nil || st.Phase != PhaseRunning {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, other, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
}

// TestUnitDies: whoever waits for a run learns that its service was killed, and that
// its program was ended; whoever waits no longer does not.
func TestUnitDies(t *testing.T) {
	t.Parallel()
	e, s, _ := launching(t)
	hold := fifo(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("read x <$1", hold)), nil); err != nil {
		t.Fatal(err)
	}
	why := errors.New("newer generation")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(30*time.Millisecond, func() { cancel(why) })
	if _, err := e.Wait(ctx, "a"); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	die(t, nth(s, 0), syscall.SIGKILL)
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeLost {
		t.Errorf("got %+v", res)
	}
	if len(e.children) > 0 {
		t.Error("it is still on the list")
	}
}

// TestUnitEnds: a run is ended as any other.
func TestUnitEnds(t *testing.T) {
	t.Parallel()
	e, _, _ := launching(t)
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("exec sleep 60")), nil); err != nil {
		t.Fatal(err)
	}
	if err := e.End(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeStopped {
		t.Errorf("got %+v", res)
	}
}

// TestStranger: only this user's processes are runners.
func TestStranger(t *testing.T) {
	t.Parallel()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	if _, err := runnerAt(ours, os.Geteuid()+1); !errors.Is(err, errStranger) {
		t.Errorf("got %v", err)
	}
	if c, err := runnerAt(ours, os.Geteuid()); err != nil || c.pid != os.Getpid() {
		t.Errorf("got %+v, %v", c, err)
	}
}

// TestSocketsOfTheDead: what a killed agent left to connect to is removed, and nothing
// else.
func TestSocketsOfTheDead(t *testing.T) {
	t.Parallel()
	u := Units{Manager: Systemd{}, Dir: t.TempDir()}
	for _, name := range []string{"runner-old", "control.sock"} {
		if err := os.WriteFile(filepath.Join(u.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u.clear()
	if left, err := os.ReadDir(u.Dir); err != nil || len(left) != 1 || left[0].Name() != "control.sock" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestCalledByNobody: a runner that comes too late, or is not let in, ends without a
// word.
func TestCalledByNobody(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "runner-x")
	if _, err := calledBy(path); !errors.Is(err, errNoRun) {
		t.Errorf("got %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := calledBy(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := awaitRun(fd, time.Second); !errors.Is(err, errNoRun) {
		t.Errorf("got %v", err)
	}
}
