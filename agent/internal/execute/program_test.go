package execute

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// standIn is a systemd for the runners that the test starts, with the units that a
// file holds: lines of name and state.
func standIn(t *testing.T) (s *systemdtest.Server, units string) {
	t.Helper()
	units = filepath.Join(t.TempDir(), "units")
	s = systemdtest.Start(t)
	s.Do(func() {
		s.Units = func() map[string]systemdtest.Unit {
			data, _ := os.ReadFile(units) //nolint:gosec // The test's own.
			troubled := map[string]systemdtest.Unit{}
			for line := range strings.Lines(string(data)) {
				name, sub, _ := strings.Cut(strings.TrimSpace(line), " ")
				u := systemdtest.Unit{Sub: sub, Status: 1}
				if strings.HasPrefix(name, "well") {
					u.Status = 0
				}
				troubled[name] = u
			}
			return troubled
		}
	})
	t.Setenv(systemdVariable, string(s.Address))
	return s, units
}

func unit(name, sub string) string { return name + " " + sub + "\n" }

// TestFailedUnits: exit 4 of a switch counts only where a unit failed by it.
func TestFailedUnits(t *testing.T) {
	old := unit("old.service", "failed")
	for name, c := range map[string]struct {
		before, after string
		breaks        string
	}{
		"one that was failed before":           {old, old, ""},
		"one that was, and one that recovered": {old + unit("b.service", "failed"), old, ""},
		"a new one":                            {old, old + unit("new.service", "failed"), "new.service"},
		"one that restarted before":            {unit("old.service", "auto-restart"), unit("old.service", "auto-restart"), ""},
		"one that restarted before and failed": {unit("old.service", "auto-restart"), old, ""},
		"one that restarts now":                {"", unit("new.service", "auto-restart"), "new.service"},
		"one that ended well and restarts now": {old, old + unit("well.service", "auto-restart"), ""},
		"many": {"", strings.Repeat(unit("a.service", "failed"), 1) + func() (s string) {
			for _, c := range "bcdefghijk" {
				s += unit(string(c)+".service", "failed")
			}
			return s
		}(), "and 3 more"},
	} {
		t.Run(name, func(t *testing.T) {
			_, units := standIn(t)
			if err := os.WriteFile(units, []byte(c.before), 0o600); err != nil {
				t.Fatal(err)
			}
			after := filepath.Join(t.TempDir(), "after")
			if err := os.WriteFile(after, []byte(c.after), 0o600); err != nil {
				t.Fatal(err)
			}
			step := driver.Step{Exec: &driver.Exec{
				Argv: []string{"/bin/sh", "-c", "cp " + after + " " + units + "; exit 4"}, FailedUnitsCode: 4,
				Meanings: map[int]string{4: "units failed"},
			}}
			res := finish(t, step)
			if c.breaks == "" && res.Outcome != OutcomeOK || c.breaks != "" &&
				(res.Outcome != OutcomeExit || !strings.Contains(res.Message, c.breaks) || !strings.Contains(res.Message, "units failed")) {
				t.Errorf("got %+v", res)
			}
		})
	}
}

// TestSystemdAway: a systemd that doesn't answer for a moment, as one does that a
// switch replaces, is asked again, before the switch and after it.
func TestSystemdAway(t *testing.T) {
	s, units := standIn(t)
	s.Do(func() { s.Away = true })
	if err := os.WriteFile(units, []byte(unit("old.service", "failed")), 0o600); err != nil {
		t.Fatal(err)
	}
	four := &driver.Exec{Argv: []string{"/bin/sh", "-c", "exit 4"}, FailedUnitsCode: 4}
	if res := finish(t, driver.Step{Exec: four}); res.Outcome != OutcomeOK {
		t.Errorf("nothing failed that had not before: got %+v", res)
	}
}

// TestOwnUnitIsNoEvidence: an agent that was killed, and waits for its systemd,
// does not count against what was switched to meanwhile.
func TestOwnUnitIsNoEvidence(t *testing.T) {
	s, units := standIn(t)
	old := manager
	manager = s.Address
	t.Cleanup(func() { manager = old })
	for name, c := range map[string]struct{ after, own, breaks string }{
		"the agent restarts":             {unit("fleet-agent.service", "auto-restart"), "fleet-agent.service", ""},
		"the agent is failed":            {unit("fleet-agent.service", "failed"), "fleet-agent.service", ""},
		"the agent and another one":      {unit("fleet-agent.service", "auto-restart") + unit("b.service", "failed"), "fleet-agent.service", "b.service"},
		"another activation":             {unit(unitPrefix+"x.service", "failed"), "fleet-agent.service", ""},
		"an agent that is in no service": {unit("fleet-agent.service", "auto-restart"), "", "fleet-agent.service"},
	} {
		if err := os.WriteFile(units, []byte(c.after), 0o600); err != nil {
			t.Fatal(err)
		}
		four := Result{Outcome: OutcomeExit, ExitCode: 4, Message: "exit 4"}
		want := Result{}
		if c.breaks != "" {
			want = four
			want.Message += ": units that failed: " + c.breaks
		}
		if got := judgeUnits(four, nil, nil, "", c.own); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// TestFailedUnitsUnknown: without systemd the program's word stands.
func TestFailedUnitsUnknown(t *testing.T) {
	t.Setenv(systemdVariable, filepath.Join(t.TempDir(), "nobody"))
	res := finish(t, driver.Step{Exec: &driver.Exec{Argv: []string{"/bin/sh", "-c", "exit 4"}, FailedUnitsCode: 4}})
	if res.Outcome != OutcomeExit || !strings.Contains(res.Message, "can't be told") {
		t.Errorf("got %+v", res)
	}
}

// finish runs one step to its end.
func finish(t *testing.T, steps ...driver.Step) Result {
	t.Helper()
	e := executor(t, t.TempDir())
	if err := e.Start(t.Context(), "run", action(time.Minute, steps...), nil); err != nil {
		t.Fatal(err)
	}
	res, err := e.Wait(t.Context(), "run")
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestBusyIsTriedAgain(t *testing.T) {
	tried := filepath.Join(t.TempDir(), "tried")
	step := sh("echo x >>$1; [ $(wc -l <$1) -ge 2 ] || exit 11", tried)
	step.Exec.BusyCodes = []int{11}
	if res := finish(t, step); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	if data, err := os.ReadFile(tried); err != nil || string(data) != "x\nx\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestBusyToTheEnd: a lock that others hold is nobody's fault.
func TestBusyToTheEnd(t *testing.T) {
	e := executor(t, t.TempDir())
	step := sh("exit 11")
	step.Exec.BusyCodes = []int{11}
	if err := e.Start(t.Context(), "run", action(500*time.Millisecond, step), nil); err != nil {
		t.Fatal(err)
	}
	if res, err := e.Wait(t.Context(), "run"); err != nil || res.Outcome != OutcomeBusy {
		t.Errorf("got %+v, %v", res, err)
	}
}

func TestUnless(t *testing.T) {
	dir := t.TempDir()
	target, link, middle, ran := filepath.Join(dir, "target"), filepath.Join(dir, "link"), filepath.Join(dir, "middle"), filepath.Join(dir, "ran")
	step := sh("touch $1", ran)
	step.Exec.Unless = &driver.Link{Path: link, Target: target}
	mark := func(want bool) {
		t.Helper()
		if res := finish(t, step); res.Outcome != OutcomeOK {
			t.Errorf("got %+v", res)
		}
		_, err := os.Lstat(ran)
		if (err == nil) != want {
			t.Errorf("ran: %v, want %t", err, want)
		}
		_ = os.Remove(ran)
	}
	mark(true) // there is no link
	for from, to := range map[string]string{middle: target, link: middle} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	mark(true) // it leads nowhere
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	mark(false)
}

func TestSyncStep(t *testing.T) {
	dir := t.TempDir()
	if res := finish(t, driver.Step{Sync: &driver.Sync{Paths: []string{dir, "/"}}}); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	gone := driver.Step{Sync: &driver.Sync{Paths: []string{filepath.Join(dir, "gone")}}}
	if res := finish(t, gone); res.Outcome != OutcomeError || !strings.Contains(res.Message, "gone") {
		t.Errorf("got %+v", res)
	}
}

func TestMeaning(t *testing.T) {
	step := sh("exit 100")
	step.Exec.Meanings = map[int]string{100: "a reboot is needed"}
	if res := finish(t, step); res.Outcome != OutcomeExit || !strings.Contains(res.Message, "exit code 100 (a reboot is needed)") {
		t.Errorf("got %+v", res)
	}
}

// TestHostUnits: what failed in a boot is told once that is over, and from what had failed
// before.
func TestHostUnits(t *testing.T) {
	s, units := standIn(t)
	old := manager
	manager = s.Address
	t.Cleanup(func() { manager = old })
	failed := func(text string) {
		t.Helper()
		if err := os.WriteFile(units, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	failed(unit("old.service", "failed") + unit("waits.service", "auto-restart"))
	u := HostUnits{Own: []string{"fleet-agent.service"}}
	before, err := u.Troubled(t.Context())
	if err != nil || strings.Join(before, " ") != "old.service waits.service" {
		t.Fatalf("troubled are %q, %v", before, err)
	}
	failed(unit("old.service", "failed") + unit("new.service", "failed") + unit("fleet-agent.service", "failed") +
		unit("user@1000.service", "failed") + unit("user-runtime-dir@1000.service", "failed") + unit("session-3.scope", "failed"))
	s.Do(func() { s.Starting = true })
	if broken, over, err := u.Broken(t.Context(), before); broken != "" || over || err != nil {
		t.Errorf("before the boot is over: %q, %t, %v", broken, over, err)
	}
	s.Do(func() { s.Starting = false })
	if broken, over, err := u.Broken(t.Context(), before); broken != "new.service" || !over || err != nil {
		t.Errorf("got %q, %t, %v", broken, over, err)
	}
}

// TestUserHasNoLog: what a user's program prints is in the log, and bounded; the log itself
// is never the user's to write to.
func TestUserHasNoLog(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // Who is not root has no other user.
	}
	e := executor(t, t.TempDir())
	as := func(script string, args ...string) driver.Step {
		s := sh(script, args...)
		s.Exec.User = "nobody"
		return s
	}
	// Its output is no file; what is left with it goes on a second at most, and writes into nothing.
	steps := []driver.Step{
		as(`[ -p /proc/self/fd/1 ] && [ -p /proc/self/fd/2 ]; echo it says "$(id -un)"`),
		as(`sleep 600 & echo $!`),
		sh(`echo root says`),
	}
	if err := e.Start(t.Context(), "a", action(time.Minute, steps...), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "a"); res.Outcome != OutcomeOK {
		t.Fatalf("got %+v", res)
	}
	log, err := os.ReadFile(e.Log("a"))
	said := strings.Split(string(log), "\n")
	if err != nil || len(said) != 4 || said[0] != "it says nobody" || said[2] != "root says" {
		t.Fatalf("log %q, %v", log, err)
	}
	defer func() { _ = syscall.Kill(atoi(t, said[1]), syscall.SIGKILL) }()
	if to, err := os.Readlink("/proc/" + said[1] + "/fd/1"); err != nil || !strings.HasPrefix(to, "pipe:") {
		t.Errorf("what is left writes to %q, %v", to, err)
	}
	if err := e.Start(t.Context(), "b", action(time.Minute, as(`head -c 20000000 /dev/zero | tr '\0' x`)), nil); err != nil {
		t.Fatal(err)
	}
	if res := waitFor(t, e, "b"); res.Outcome != OutcomeOK {
		t.Errorf("got %+v", res)
	}
	if fi, err := os.Stat(e.Log("b")); err != nil || fi.Size() != MaxLogBytes+int64(len(cutNote)) {
		t.Errorf("the log has %d bytes, %v", fi.Size(), err)
	}
}
