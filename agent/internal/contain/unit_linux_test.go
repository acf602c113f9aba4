package contain

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
)

// nobody is a user without anything.
const nobody = 65534

// withUnits has this process find a stand-in for systemd and the kernel's own control
// groups; false where this process may not have those, and others run as nobody else.
func withUnits(t *testing.T) (*systemdtest.Server, bool) {
	t.Helper()
	groups := systemdtest.Groups(t)
	if groups == "" {
		return nil, false
	}
	s := systemdtest.Start(t)
	s.Do(func() { s.Groups = groups })
	t.Cleanup(Use(Place{Systemd: s.Address, Booted: t.TempDir(), Groups: groups}))
	return s, true
}

func script(text string, args ...string) Program {
	return Program{
		Name: "test", Argv: append([]string{"/bin/sh", "-c", text, "sh"}, args...), Env: []string{"PATH=/usr/bin:/bin"},
		As: &syscall.Credential{Uid: nobody, Gid: nobody}, Held: time.Second,
	}
}

// TestUnit: a user's program, and what flees its group and its session, is in a unit of
// the user's slice with bounds, and ends with it.
func TestUnit(t *testing.T) {
	s, ok := withUnits(t)
	if !ok {
		return
	}
	var out bytes.Buffer
	p := script(`id -u; grep ^0:: /proc/self/cgroup; setsid sleep 600 >/dev/null 2>&1 & echo $!; exit 3`)
	p.Stdout = &out
	err := Run(t.Context(), p)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Fatalf("got %v", err)
	}
	said := strings.Fields(out.String())
	if len(said) != 3 || said[0] != "65534" || !strings.Contains(said[1], "/user.slice/user-65534.slice/fleet-user-test-") {
		t.Fatalf("it said %q", said)
	}
	if _, err := os.Stat("/proc/" + said[2]); err == nil && !zombie(said[2]) {
		t.Error("what fled is still there")
	}
	s.Do(func() {
		for name, got := range s.Started {
			if got["TasksMax"] != uint64(maxTasks) || got["MemoryMaxScale"] == nil || got["KillMode"] != "control-group" ||
				got["RuntimeMaxUSec"] != uint64((unitRuns+unitSlack)/time.Microsecond) || got["Slice"] != "user-65534.slice" {
				t.Errorf("%s: %v", name, got)
			}
		}
	})
}

func zombie(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// TestUnitOfForks: one that gives birth faster than it is looked at ends with its context.
func TestUnitOfForks(t *testing.T) {
	if _, ok := withUnits(t); !ok {
		return
	}
	dir := open(t)
	again := filepath.Join(dir, "again")
	// Each begins another one in a session of its own, and ends: there are never many.
	if err := os.WriteFile(again, []byte("trap '' TERM HUP\n: >"+dir+"/began\nsetsid sh \"$0\" &\nexit\n"), 0o644); err != nil { //nolint:gosec // For everybody.
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Lstat(filepath.Join(dir, "began")); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if err := Run(ctx, script(`sh "$1"; sleep 600`, again)); err == nil {
		t.Error("it ended well")
	}
	left, err := filepath.Glob(filepath.Join(host.Groups, "user.slice/user-65534.slice/*", "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range left {
		if b, err := os.ReadFile(file); err == nil && len(b) > 0 {
			t.Errorf("%s: %s", file, b)
		}
	}
}

// open is a directory that everybody may write to.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "open")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // Meant.
		t.Fatal(err)
	}
	return dir
}

// TestUnitOfTheOldKernel: without cgroup.kill, what is in a unit is killed while it is
// frozen.
func TestUnitOfTheOldKernel(t *testing.T) {
	if _, ok := withUnits(t); !ok {
		return
	}
	p := script("")
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 600 & sleep 600"}, SysProcAttr: &syscall.SysProcAttr{Credential: p.As}}
	u, err := Start(t.Context(), cmd, "test", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	u.killFrozen()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	if !u.Kill(5 * time.Second) {
		t.Error("something is left")
	}
}

// TestNoUnit: where systemd gives none, nothing runs.
func TestNoUnit(t *testing.T) {
	s, ok := withUnits(t)
	if !ok {
		return
	}
	file := filepath.Join(open(t), "ran")
	for name, spoil := range map[string]func(){
		"it refuses":          func() { s.Refuse = true },
		"its job fails":       func() { s.Refuse, s.Result = false, "failed" },
		"nothing was moved":   func() { s.Result, s.Groups = "done", "" },
		"the socket is away":  func() { host.Systemd += "away" },
		"nobody can tell why": func() { host.Booted += "\x00" },
	} {
		s.Do(spoil)
		if err := Run(t.Context(), script(`echo >"$1"`, file)); !errors.Is(err, ErrNoUnit) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(file); err == nil {
		t.Error("it ran")
	}
}

// TestWithout: it goes by what the host is, and then the limits of a process bound what a
// user runs.
func TestWithout(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(Use(Place{Booted: dir, Groups: dir}))
	if os.Geteuid() != 0 {
		if why := Without(); !strings.Contains(why, "not root") {
			t.Errorf("got %q", why)
		}
		return
	}
	if why := Without(); !strings.Contains(why, "version 1") {
		t.Errorf("got %q", why)
	}
	host.Booted += "away"
	if why := Without(); !strings.Contains(why, "systemd does not run") {
		t.Errorf("got %q", why)
	}
	var out bytes.Buffer
	p := script(`grep 'Max processes' /proc/self/limits; cat /proc/self/oom_score_adj; pwd; [ "$1" = "a b" ]`, "a b")
	p.Stdout, p.Dir = &out, "/tmp"
	if err := Run(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(out.String()); len(got) != 7 || got[2] != maxProcesses || got[3] != maxProcesses || got[5] != "0" || got[6] != "/tmp" {
		t.Errorf("it runs with %q", got)
	}
}

// TestEndNamed: whoever finds that a program's runner died ends its unit by name.
func TestEndNamed(t *testing.T) {
	if _, ok := withUnits(t); !ok {
		return
	}
	start := func(name string) *exec.Cmd {
		cmd := &exec.Cmd{Path: "/bin/sleep", Args: []string{"sleep", "600"}, SysProcAttr: &syscall.SysProcAttr{Credential: script("").As}}
		if _, err := Start(t.Context(), cmd, name, 0); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	one, other := start("home-ann-1"), start("home-ann-1-2")
	if n := EndNamed("home-ann-1", 5*time.Second); n != 1 {
		t.Errorf("ended %d", n)
	}
	if err := one.Wait(); err == nil {
		t.Error("it ended well")
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if n := EndNamed("home-ann-1-2", 5*time.Second); n != 1 {
		t.Errorf("ended %d", n)
	}
	_ = other.Wait()
}
