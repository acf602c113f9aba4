package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// macManager is a fakeManager of a Mac.
type macManager struct{ *fakeManager }

func (macManager) File(service string) string { return DaemonList(Label(service)) }

// onMac is a world of a Mac, with its program where it is unless told otherwise.
func onMac(t *testing.T) *world {
	w := newWorld(t)
	w.Manager = macManager{w.m}
	w.d.Program = w.DefaultProgram("fleet-agent")
	w.d.Text = func(r Record) (string, error) { return "<!-- " + r.String() + " -->\n", nil }
	return w
}

// TestReplaceable: who may write a program, a directory on its way or a link's, is told.
func TestReplaceable(t *testing.T) {
	const program = "/opt/bin/fleet-agent"
	for name, tt := range map[string]struct {
		spoil func(w *world)
		want  string
	}{
		"root's alone":     {func(*world) {}, ""},
		"not there yet":    {func(w *world) { _ = os.RemoveAll(w.path("/opt")) }, ""},
		"program":          {func(w *world) { w.mode(program, 0o757) }, "everybody, by the permissions of /opt/bin/fleet-agent"},
		"directory":        {func(w *world) { w.mode("/opt/bin", 0o777) }, "everybody, by the permissions of /opt/bin"},
		"directory above":  {func(w *world) { w.mode("/opt", 0o777) }, "everybody, by the permissions of /opt"},
		"sticky directory": {func(w *world) { w.mode("/opt/bin", 0o777|os.ModeSticky) }, "everybody, by the permissions of /opt/bin"},
		"where a link leads": {func(w *world) {
			w.put(w.path("/home/bin/fleet-agent"), "x", 0o755)
			w.mode("/home", 0o777)
			_ = os.RemoveAll(w.path("/opt/bin"))
			w.symlink("../home/bin", "/opt/bin")
		}, "everybody, by the permissions of /home"},
		"links without end": {func(w *world) {
			_ = os.RemoveAll(w.path("/opt/bin"))
			w.symlink("/opt/bin", "/opt/bin")
		}, "levels of symbolic links"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.put(w.path(program), "x", 0o755)
			tt.spoil(w)
			who, err := Replaceable(w.Root, program)
			if err != nil {
				who = err.Error()
			}
			if (who == "") != (tt.want == "") || !strings.Contains(who, tt.want) {
				t.Errorf("%q, want %q", who, tt.want)
			}
		})
	}
	t.Run("another user's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root gives files away")
		}
		w := newWorld(t)
		w.put(w.path(program), "x", 0o755)
		if err := os.Chown(w.path("/opt/bin"), 4711, 0); err != nil {
			t.Fatal(err)
		}
		if who, err := Replaceable(w.Root, program); err != nil || who != "the user 4711, who owns /opt/bin" {
			t.Errorf("%q, %v", who, err)
		}
		if err := errors.Join(os.Chown(w.path("/opt/bin"), 0, 4711), os.Chmod(w.path("/opt/bin"), 0o775)); err != nil { //nolint:gosec // What is tested.
			t.Fatal(err)
		}
		if who, err := Replaceable(w.Root, program); err != nil || who != "the group 4711, by the permissions of /opt/bin" {
			t.Errorf("%q, %v", who, err)
		}
	})
}

func (w *world) mode(file string, mode os.FileMode) {
	w.t.Helper()
	if err := os.Chmod(w.path(file), mode); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) symlink(to, at string) {
	w.t.Helper()
	if err := os.Symlink(to, w.path(at)); err != nil {
		w.t.Fatal(err)
	}
}

// TestInstallOnMac: launchd is given no program that a user could replace; shells find the
// one it has, as long as it is there; a copy from before is removed.
func TestInstallOnMac(t *testing.T) {
	w := onMac(t)
	if w.d.Program != "/usr/local/libexec/fleet/fleet-agent" || newWorld(t).DefaultProgram("fleet-agent") != testProgram {
		t.Fatalf("%s, %s", w.d.Program, newWorld(t).DefaultProgram("fleet-agent"))
	}
	// As of an earlier version, before Homebrew came.
	good := w.d.Program
	w.d.Program = testProgram
	w.install()
	if _, err := os.Stat(w.path(shellPaths)); err == nil {
		t.Error("shells are told of what they know")
	}
	w.mode("/usr/local/bin", 0o777)
	if _, err := w.Install(t.Context(), w.d); !errors.Is(err, ErrReplaceable) {
		t.Errorf("a program of everybody's: %v", err)
	}
	w.d.Program = good
	done := w.install()
	if done.Removed != testProgram || !done.Restarted || !strings.Contains(strings.Join(done.Report("fleet-agent").Did, "\n"), "removed the copy that ran before") {
		t.Errorf("%+v", done)
	}
	if _, err := os.Stat(w.path(testProgram)); err == nil {
		t.Error("the copy from before is there")
	}
	if text, err := os.ReadFile(w.path(shellPaths)); err != nil || string(text) != MacPrograms+"\n" {
		t.Errorf("%q, %v", text, err)
	}
	if again := w.install(); again.Removed != "" || again.Restarted {
		t.Errorf("%+v", again)
	}
	// Another program of the same directory's needs the shells to look there.
	other := filepath.Join(w.path(MacPrograms), "other")
	w.put(other, "x", 0o755)
	uninstall := func() {
		t.Helper()
		if _, err := w.Uninstall(context.Background(), "fleet-agent", false); err != nil {
			t.Fatal(err)
		}
	}
	uninstall()
	if _, err := os.Stat(w.path(shellPaths)); err != nil {
		t.Error(err)
	}
	w.install()
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	uninstall()
	for _, gone := range []string{shellPaths, MacPrograms} {
		if _, err := os.Stat(w.path(gone)); err == nil {
			t.Errorf("%s is left", gone)
		}
	}
}
