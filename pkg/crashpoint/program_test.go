package crashpoint_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// build builds packages as make build does, with more tags.
func build(t *testing.T, tags, dir string, packages ...string) {
	t.Helper()
	args := append([]string{"build", "-tags", "grpcnotrace,nethttpomithttp2" + tags, "-trimpath", "-o", dir + string(filepath.Separator)}, packages...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestPlainPrograms: what is given to users knows nothing of crash points.
func TestPlainPrograms(t *testing.T) {
	dir := t.TempDir()
	build(t, "", dir, "./cmd/fleet-agent", "./cmd/fleet-coordinator", "./cmd/fleetctl")
	for _, name := range []string{"fleet-agent", "fleet-coordinator", "fleetctl"} {
		program := filepath.Join(dir, name)
		if found := traces(t, program); len(found) > 0 {
			t.Errorf("%s has text of crash points: %q", name, found)
		}
		out, err := exec.CommandContext(t.Context(), "go", "tool", "nm", program).Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), "pkg/crashpoint.") {
			t.Errorf("%s has symbols of crash points", name)
		}
		if !strings.Contains(string(out), "pkg/buildinfo.") {
			t.Errorf("%s: nm shows no symbols: this test can't see anything", name)
		}
	}
	// That the search finds what is there:
	build(t, ",crashpoints", dir, "./pkg/crashpoint/testdata/hits")
	if found := traces(t, filepath.Join(dir, "hits")); len(found) != len(crashpoint.Points()) {
		t.Errorf("a program with crash points has %d of %d texts", len(found), len(crashpoint.Points()))
	}
}

// hits is a program with crash points.
type hits struct{ path string }

func (h hits) run(t *testing.T, trigger, log string, args ...string) (string, *exec.ExitError) {
	t.Helper()
	cmd := h.command(t, trigger, log, args...)
	out, err := cmd.Output()
	exit := &exec.ExitError{}
	if err != nil && !asExit(err, &exit) {
		t.Fatal(err)
	}
	if err == nil {
		return string(out), nil
	}
	return string(out), exit
}

func asExit(err error, to **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // As Output returns it.
	if ok {
		*to = e
	}
	return ok
}

func (h hits) command(t *testing.T, trigger, log string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.path, args...)
	cmd.Env = append(os.Environ(), "FLEET_CRASHPOINT="+trigger, "FLEET_CRASHPOINT_LOG="+log)
	return cmd
}

func killed(e *exec.ExitError) bool {
	if e == nil {
		return false
	}
	ws, ok := e.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

func TestTriggers(t *testing.T) {
	dir := t.TempDir()
	build(t, ",crashpoints", dir, "./pkg/crashpoint/testdata/hits")
	h := hits{filepath.Join(dir, "hits")}
	one := crashpoint.Points()[1].Name
	two := crashpoint.Points()[2].Name
	log := func(t *testing.T) string { return filepath.Join(t.TempDir(), "log") }

	t.Run("nothing asked", func(t *testing.T) {
		if out, err := h.run(t, "", "", "1", "2"); out != "1\n2\n" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
	})
	t.Run("each process counts for itself without a log", func(t *testing.T) {
		for range 2 {
			if out, err := h.run(t, one+"#2=kill", "", "1", "2", "1", "2"); out != "1\n2\n" || !killed(err) {
				t.Errorf("got %q, %v", out, err)
			}
		}
	})
	t.Run("one after the other, over processes", func(t *testing.T) {
		file := log(t)
		trigger := one + "#3=kill,hits/*=kill," + two + "@b=kill"
		for i, want := range []string{"1\n2\n1\n2\n", "", "1\n2/a\n", "1\n2/b\n"} {
			out, err := h.run(t, trigger, file, [][]string{{"1", "2", "1", "2", "1", "2"}, {"2", "1"}, {"1", "2/a", "2/b"}, {"1", "2/b"}}[i]...)
			if out != want || killed(err) != (i < 3) {
				t.Errorf("run %d: got %q, %v", i, out, err)
			}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"hits " + one + " - ", "fired " + one + " - ", "hits " + two + " b ", "fired " + two + " b "} {
			if !strings.Contains(string(data), want) {
				t.Errorf("the log lacks %q:\n%s", want, data)
			}
		}
	})
	t.Run("other processes are left alone", func(t *testing.T) {
		if _, err := h.run(t, "agent/"+one+"=kill", log(t), "1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("mistakes end the program", func(t *testing.T) {
		for _, bad := range []string{"no.such=kill", one, one + "=stop:", one + "=die", one + "#0=kill", one + "#x=kill"} {
			if out, err := h.run(t, bad, "", "1"); out != "" || err == nil || err.ExitCode() != 70 {
				t.Errorf("%s: got %q, %v", bad, out, err)
			}
		}
	})
	t.Run("stop", func(t *testing.T) {
		marker := filepath.Join(t.TempDir(), "stopped")
		cmd := h.command(t, two+"=stop:"+marker, "", "1", "2", "1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitStopped(t, cmd.Process.Pid, marker)
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// waitStopped waits until the marker names the process and it stands still.
func waitStopped(t *testing.T, pid int, marker string) {
	t.Helper()
	for range 500 {
		text, _ := os.ReadFile(marker)
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if string(text) == fmt.Sprintln(pid) && strings.Contains(string(stat), ") T ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the process does not stop")
}
