package execute

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// useGroups has users' programs be in control groups there; empty for none.
func useGroups(dir string) (restore func()) {
	if dir == "" {
		return func() {}
	}
	return contain.Use(contain.Place{Systemd: manager, Booted: dir, Groups: dir})
}

// withUnits has this process, and runners, give units to users' programs; nil where this
// process can't.
func withUnits(t *testing.T) *systemdtest.Server {
	t.Helper()
	groups := systemdtest.Groups(t)
	if groups == "" {
		return nil
	}
	s := systemdtest.Start(t)
	s.Do(func() { s.Groups = groups })
	t.Setenv(systemdVariable, string(s.Address))
	t.Setenv(groupsVariable, groups)
	t.Cleanup(contain.Use(contain.Place{Systemd: s.Address, Booted: groups, Groups: groups}))
	return s
}

func asNobody(script string, args ...string) driver.Step {
	s := sh(script, args...)
	s.Exec.User = "nobody"
	return s
}

// TestUserWithoutUnit: a step of a user's waits for a unit, and that it came to none is
// nobody's fault.
func TestUserWithoutUnit(t *testing.T) {
	s := withUnits(t)
	if s == nil {
		return
	}
	s.Do(func() { s.Refuse = true })
	e := executor(t, t.TempDir())
	ran := filepath.Join(everybodys(t), "ran")
	if err := e.Start(t.Context(), "a", action(time.Second, asNobody(`echo >"$1"`, ran)), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeBusy || !strings.Contains(res.Message, contain.ErrNoUnit.Error()) {
		t.Errorf("got %+v", res)
	}
	if _, err := os.Lstat(ran); err == nil {
		t.Error("it ran")
	}
	// Once there is one, it goes on.
	if err := e.Start(t.Context(), "b", action(time.Minute, asNobody(`echo >"$1"`, ran)), nil); err != nil {
		t.Fatal(err)
	}
	s.Do(func() { s.Refuse = false })
	if res := waitFor(t, e, "b"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
}

// TestLostUser: of a run whose runner was killed, what its user's program began is ended,
// also what fled its session.
func TestLostUser(t *testing.T) {
	if withUnits(t) == nil {
		return
	}
	e := executor(t, t.TempDir())
	file := filepath.Join(everybodys(t), "pid")
	script := `setsid sleep 600 >/dev/null 2>&1 & echo $! >"$1.new"; mv "$1.new" "$1"; sleep 600`
	if err := e.Start(t.Context(), "lost", action(time.Minute, asNobody(script, file)), nil); err != nil {
		t.Fatal(err)
	}
	var pid []byte
	for last := time.Now().Add(30 * time.Second); len(pid) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(last) {
			t.Fatal("it does not begin")
		}
		pid, _ = os.ReadFile(file)
	}
	var s started
	if err := readJSON(e.path("lost"), fileStarted, &s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "lost"); res.Outcome != OutcomeLost {
		t.Errorf("got %+v", res)
	}
	if alive(t, atoi(t, strings.TrimSpace(string(pid)))) {
		t.Error("what fled is still there")
	}
}

// everybodys is a directory that everybody may write to.
func everybodys(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // Meant.
		t.Fatal(err)
	}
	return dir
}
