package execute

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heldClock is time that passes when a test says so, for what comes to its end.
type heldClock struct {
	stillClock

	over chan time.Time
}

func (c heldClock) After(d time.Duration) (<-chan time.Time, func()) {
	if d == finishWithin {
		return c.over, func() {}
	}
	return c.stillClock.After(d)
}

// TestCommitComesToItsEnd: who is told to stop in the midst of a commit lets it end,
// and not for longer than a shutdown can wait.
func TestCommitComesToItsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		late bool
		exit string
		want Outcome
	}{
		"in time":          {false, "0", OutcomeOK},
		"too late":         {true, "0", OutcomeStopped},
		"failing after it": {false, "1", OutcomeStopped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, ready, hold := t.TempDir(), fifo(t), fifo(t)
			script := sh("echo begun >$1; read x <$2; exit $3", ready, hold, c.exit)
			if err := writeJSON(dir, fileAction, request{ID: "a", Action: action(time.Minute, script), Finish: true}); err != nil {
				t.Fatal(err)
			}
			lock, err := takeLock(filepath.Join(dir, fileLock))
			if err != nil {
				t.Fatal(err)
			}
			stop, over, ended := make(chan os.Signal), make(chan time.Time, 1), make(chan error, 1)
			go func() { ended <- runAction(dir, lock, heldClock{over: over}, stop) }()
			readLine(t, ready)
			stop <- unix.SIGTERM // It is heard.
			if c.late {
				over <- time.Time{}
			} else if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			var res Result
			if err := readJSON(dir, fileResult, &res); err != nil || res.Outcome != c.want {
				t.Errorf("got %+v, %v, want %s", res, err, c.want)
			}
		})
	}
}

// TestCommitOfAService: the same, with the signal that systemd sends.
func TestCommitOfAService(t *testing.T) {
	t.Parallel()
	e, ready, hold := executor(t, t.TempDir()), fifo(t), fifo(t)
	if err := e.StartCommit(t.Context(), "a", action(time.Minute, sh("echo begun >$1; read x <$2", ready, hold)), nil); err != nil {
		t.Fatal(err)
	}
	readLine(t, ready)
	var s started
	if err := readJSON(e.path("a"), fileStarted, &s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
}

// TestFailedByAShutdown: what fails while the host is shut down is not blamed for it,
// also where only units failed.
func TestFailedByAShutdown(t *testing.T) {
	s, units := standIn(t)
	s.Do(func() { s.Stopping = true })
	four := sh(`printf %s "$2" >$1; exit 4`, units, unit("new.service", "failed"))
	four.Exec.FailedUnitsCode = 4
	for name, res := range map[string]Result{"exit code": finish(t, sh("exit 1")), "units": finish(t, four)} {
		if res.Outcome != OutcomeStopped || !strings.Contains(res.Message, "shut down") {
			t.Errorf("%s: got %+v", name, res)
		}
	}
	if res := finish(t, sh("exit 0")); res.Outcome != OutcomeOK {
		t.Errorf("what does not fail is blamed: %+v", res)
	}
	s.Do(func() { s.Stopping = false })
	if res := finish(t, sh("exit 1")); res.Outcome != OutcomeExit {
		t.Errorf("got %+v", res)
	}
}

// TestNothingBeginsInAShutdown: where systemd starts no runner because of it, nothing is
// begun beside it, and nothing is on record of it.
func TestNothingBeginsInAShutdown(t *testing.T) {
	t.Parallel()
	e, s, _ := launching(t)
	s.Do(func() { s.Refuse, s.Stopping = true, true })
	if err := e.Start(t.Context(), "a", action(time.Minute, sh("true")), nil); !errors.Is(err, errGoesDown) {
		t.Errorf("got %v", err)
	}
	if st, err := e.Status("a"); err != nil || st.Phase != PhaseAbsent {
		t.Errorf("got %+v, %v", st, err)
	}
	s.Do(func() { s.Stopping = false })
	ranAs(t, e, "a")
}

// TestLeave: runners of one's own are told, and waited for, and a commit comes to its end.
func TestLeave(t *testing.T) {
	t.Parallel()
	// Two of them: who opens one again may find the writer before, which says no more.
	e, ready, begun, hold := executor(t, t.TempDir()), fifo(t), fifo(t), fifo(t)
	if err := e.Start(t.Context(), "activate", action(time.Minute, sh(`echo $$ >$1; exec sleep 600`, ready)), nil); err != nil {
		t.Fatal(err)
	}
	program := atoi(t, readLine(t, ready))
	if err := e.StartCommit(t.Context(), "commit", action(time.Minute, sh("echo begun >$1; read x <$2", begun, hold)), nil); err != nil {
		t.Fatal(err)
	}
	readLine(t, begun)
	left := make(chan struct{})
	go func() {
		e.Leave(t.Context())
		close(left)
	}()
	if res := waitFor(t, e, "activate"); res.Outcome != OutcomeStopped || alive(t, program) {
		t.Errorf("got %+v", res)
	}
	select {
	case <-left:
		t.Error("it did not wait for the commit")
	default:
	}
	if err := os.WriteFile(hold, []byte("go\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	<-left
	if res := waitFor(t, e, "commit"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	e.Leave(t.Context()) // Of nobody.
}
