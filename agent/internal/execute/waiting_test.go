package execute

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// prepared is an executor with a runner that waits.
func prepared(t *testing.T) (e *Executor, pid int) {
	t.Helper()
	e = executor(t, t.TempDir())
	t.Cleanup(e.Release)
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	return e, e.waiting.child.pid
}

// ranAs carries out a run and says in which process.
func ranAs(t *testing.T, e *Executor, id string) int {
	t.Helper()
	if err := e.Start(t.Context(), id, action(time.Minute, sh("echo out; echo err >&2")), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, id); res.Outcome != OutcomeOK {
		t.Fatalf("got %+v", res)
	}
	if log, err := os.ReadFile(e.Log(id)); err != nil || string(log) != "out\nerr\n" {
		t.Errorf("log %q, %v", log, err)
	}
	var s started
	if err := readJSON(e.path(id), fileStarted, &s); err != nil {
		t.Fatal(err)
	}
	return s.PID
}

// die ends a process by a signal.
func die(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	awaitDeath(t, pid)
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	e, pid := prepared(t)
	if err := e.Prepare(); err != nil || e.waiting.child.pid != pid {
		t.Errorf("a second one: %v", err)
	}
	if got := ranAs(t, e, "a"); got != pid {
		t.Errorf("process %d ran it, not %d", got, pid)
	}
	if got := ranAs(t, e, "b"); got == pid {
		t.Error("one process ran both")
	}
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	pid = e.waiting.child.pid
	e.Release()
	awaitDeath(t, pid)
	ranAs(t, e, "c")
}

// TestPreparedIsGone: a runner that waited and was killed is no loss.
func TestPreparedIsGone(t *testing.T) {
	t.Parallel()
	e, pid := prepared(t)
	die(t, pid, syscall.SIGKILL)
	if got := ranAs(t, e, "a"); got == pid {
		t.Error("a killed process ran it")
	}
	if err := e.Prepare(); err != nil {
		t.Fatal(err)
	}
	pid = e.waiting.child.pid
	die(t, pid, syscall.SIGKILL)
	if err := e.Prepare(); err != nil || e.waiting.child.pid == pid {
		t.Errorf("not replaced: %v", err)
	}
}

// TestPreparedIsStuck: a runner that does not say that it has its run is ended, and
// another one has it.
func TestPreparedIsStuck(t *testing.T) {
	t.Parallel()
	e, pid := prepared(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(pid, nil, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	if got := ranAs(t, e, "a"); got == pid || alive(t, pid) {
		t.Errorf("process %d ran it, and %d is there: %v", got, pid, alive(t, pid))
	}
}

// TestWaitedTooLong: pruning collects a runner that gave up, or was told to: a
// shutdown tells it.
func TestWaitedTooLong(t *testing.T) {
	t.Parallel()
	e, pid := prepared(t)
	die(t, pid, syscall.SIGTERM)
	if err := e.Prune(keeping()); err != nil || e.waiting != nil {
		t.Errorf("%+v, %v", e.waiting, err)
	}
}

// TestAwaitRun: nothing, in time or because nobody is there, and nonsense.
func TestAwaitRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, line string
		files      int
	}{
		{"end of file", "", 0},
		{"half a line", "/tmp", 2},
		{"a relative path", "tmp\n", 2},
		{"no descriptors", "/tmp\n", 0},
		{"too few descriptors", "/tmp\n", 1},
		{"another file than the run's lock", "/tmp\n", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, pid := prepared(t)
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = null.Close() }()
			var fds []int
			for range c.files {
				fds = append(fds, int(null.Fd()))
			}
			if c.line != "" {
				if err := unix.Sendmsg(int(e.waiting.socket.Fd()), []byte(c.line), unix.UnixRights(fds...), nil, noSignal); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.waiting.socket.Close(); err != nil {
				t.Fatal(err)
			}
			var ws syscall.WaitStatus
			if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{true: 0, false: 1}[c.line == ""]; ws.ExitStatus() != want {
				t.Errorf("exit status %d, want %d", ws.ExitStatus(), want)
			}
		})
	}
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	defer func() { _ = theirs.Close() }()
	if err := readableIn(int32(theirs.Fd()), 20*time.Millisecond); !errors.Is(err, errNoRun) { //nolint:gosec // A descriptor.
		t.Errorf("got %v", err)
	}
}
