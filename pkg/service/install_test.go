package service

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// fakeManager is a service manager that remembers what it was told.
type fakeManager struct {
	told  []string
	state State
	fail  map[string]error
}

func (*fakeManager) File(service string) string { return systemdUnits + "/" + service + ".service" }

func (m *fakeManager) tell(what string) error {
	m.told = append(m.told, what)
	return m.fail[what]
}

func (m *fakeManager) Load(context.Context, string) error { return m.tell("load") }

func (m *fakeManager) Unload(context.Context, string) error {
	m.state.Running = false
	return m.tell("unload")
}
func (m *fakeManager) Forget(context.Context, string) error { return m.tell("forget") }

func (m *fakeManager) Control(_ context.Context, _ string, v Verb) error {
	if err := m.tell(string(v)); err != nil {
		return err
	}
	m.state.Running = v != Stop
	return nil
}

func (m *fakeManager) State(context.Context, string) (State, error) { return m.state, nil }

// world is a host in a temporary directory, with a program to install.
type world struct {
	t *testing.T
	Host
	m *fakeManager
	d Definition
}

const (
	testProgram = "/usr/local/bin/fleet-agent"
	testUnit    = systemdUnits + "/fleet-agent.service"
)

func newWorld(t *testing.T) *world {
	w := &world{t: t, m: &fakeManager{fail: map[string]error{}}}
	w.Host = Host{Manager: w.m, Root: t.TempDir()}
	from := filepath.Join(t.TempDir(), "built")
	w.put(from, "program 1", 0o755)
	w.d = Definition{
		Service: "fleet-agent", Program: testProgram, From: from, State: "/var/lib/fleet/agent",
		Text: func(r Record) (string, error) {
			return "# " + r.String() + "\n[Service]\nExecStart=" + r.Program + "\n", nil
		},
	}
	return w
}

func (w *world) put(file, text string, mode os.FileMode) {
	w.t.Helper()
	err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode))
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) install() Installed {
	w.t.Helper()
	w.m.told = nil
	done, err := w.Install(w.t.Context(), w.d)
	if err != nil {
		w.t.Fatal(err)
	}
	return done
}

func (w *world) told(want ...string) {
	w.t.Helper()
	if d := cmp.Diff(want, w.m.told); d != "" {
		w.t.Errorf("told the manager (-want +got):\n%s", d)
	}
}

func (w *world) has(file, text string) {
	w.t.Helper()
	got, err := os.ReadFile(w.path(file))
	if err != nil || !strings.Contains(string(got), text) {
		w.t.Errorf("%s has %q, %v; want %q", file, got, err, text)
	}
}

func TestInstall(t *testing.T) {
	w := newWorld(t)
	done := w.install()
	w.told("load", "start")
	w.has(testUnit, "copied=yes")
	w.has(testProgram, "program 1")
	if !done.New || !done.Copied || !done.Started || !done.State.Running {
		t.Errorf("%+v", done)
	}
	if fi, err := os.Stat(w.path(testProgram)); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", fi, err)
	}

	// Again: nothing but what an attempt that was cut short may have left to do.
	done = w.install()
	w.told("load")
	if done.New || done.Changed || done.Copied || done.Started || done.Restarted {
		t.Errorf("nothing was to be done: %+v", done)
	}
	if text := strings.Join(done.Report("fleet-agent").Did, "\n"); !strings.Contains(text, "as it should be") || !strings.Contains(text, "nothing was to be done") {
		t.Error(text)
	}

	// Another definition: replaced and restarted. The copy stays known as one.
	was := w.d.Text
	w.d.Text = func(r Record) (string, error) { s, err := was(r); return s + "# more\n", err }
	if done = w.install(); !done.Changed || done.New || !done.Restarted {
		t.Errorf("%+v", done)
	}
	w.told("load", "restart")
	w.has(testUnit, "copied=yes")

	// Another program.
	w.put(w.d.From, "program 2", 0o755)
	if done = w.install(); done.Changed || !done.Copied || !done.Restarted {
		t.Errorf("%+v", done)
	}
	w.has(testProgram, "program 2")

	// From the place itself, as a person does who upgrades a flag.
	w.d.From = w.path(testProgram)
	if done = w.install(); done.Copied || done.Changed || done.Restarted {
		t.Errorf("%+v", done)
	}
	w.has(testUnit, "copied=yes")

	un, err := w.Uninstall(t.Context(), "fleet-agent", false)
	if err != nil || un.Program != testProgram {
		t.Fatalf("%+v, %v", un, err)
	}
	for _, file := range []string{testUnit, testProgram} {
		if _, err := os.Lstat(w.path(file)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", file, err)
		}
	}
	if _, err := w.Uninstall(t.Context(), "fleet-agent", false); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("uninstalled twice: %v", err)
	}
}

// What is beside a service comes and goes with it, and is nobody else's.
func TestInstallBeside(t *testing.T) {
	const beside = systemdUnits + "/fleet-dead-man.service"
	w := newWorld(t)
	text := "[Service]\n"
	w.d.Beside = []Beside{{Service: "fleet-dead-man", Text: func(r Record) (string, error) { return "# " + r.String() + "\n" + text, nil }}}
	w.put(w.path(beside), "[Service]\nExecStart=/bin/mine\n", 0o644)
	if _, err := w.Install(t.Context(), w.d); !errors.Is(err, ErrForeign) || len(w.m.told) > 0 {
		t.Errorf("somebody's own unit: %v, %v", err, w.m.told)
	}
	if _, err := os.Lstat(w.path(testUnit)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was installed: %v", err)
	}
	w.d.Force = true
	w.install()
	w.has(beside, "service=fleet-dead-man program="+testProgram+" copied=no state=/var/lib/fleet/agent")
	w.d.Force, text = false, "[Service]\nRestart=always\n"
	if done := w.install(); done.Restarted || done.Changed {
		t.Errorf("%+v", done)
	}
	w.has(beside, "Restart=always")

	if _, err := w.Uninstall(t.Context(), "fleet-agent", false, "fleet-dead-man", "fleet-never"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(w.path(beside)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it stays: %v", err)
	}

	w.d.Beside = nil
	w.install()
	w.put(w.path(beside), "[Service]\nExecStart=/bin/mine\n", 0o644)
	if _, err := w.Uninstall(t.Context(), "fleet-agent", false, "fleet-dead-man"); err != nil {
		t.Fatal(err)
	}
	w.has(beside, "/bin/mine")
}

// A program that somebody else put there is used, and stays.
func TestInstallInPlace(t *testing.T) {
	w := newWorld(t)
	w.put(w.path(testProgram), "a package's", 0o755)
	w.d.From = w.path(testProgram)
	if done := w.install(); done.Copied {
		t.Errorf("%+v", done)
	}
	w.has(testUnit, "copied=no")
	if un, err := w.Uninstall(t.Context(), "fleet-agent", false); err != nil || un.Program != "" {
		t.Errorf("%+v, %v", un, err)
	}
	w.has(testProgram, "a package's")
}

// An install that was killed after it had copied the program, and before the unit,
// left a program that is install's all the same.
func TestInstallRemembersCopy(t *testing.T) {
	w := newWorld(t)
	w.put(w.path(testProgram), "program 1", 0o755)
	if done := w.install(); done.Copied {
		t.Errorf("%+v", done)
	}
	w.has(testUnit, "copied=yes")
	if un, err := w.Uninstall(t.Context(), "fleet-agent", false); err != nil || un.Program != testProgram {
		t.Errorf("%+v, %v", un, err)
	}
}

// A link into the Nix store is replaced by a copy: what it leads to is garbage
// one day, and another file with each build.
func TestInstallReplacesLink(t *testing.T) {
	w := newWorld(t)
	if err := errors.Join(os.MkdirAll(w.path("/usr/local/bin"), 0o755), os.Symlink(w.d.From, w.path(testProgram))); err != nil {
		t.Fatal(err)
	}
	if done := w.install(); !done.Copied {
		t.Errorf("%+v", done)
	}
	if fi, err := os.Lstat(w.path(testProgram)); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("%v, %v", fi, err)
	}
}

// What failed in the middle is finished by the same command.
func TestInstallAgainAfterFailure(t *testing.T) {
	for _, at := range []string{"load", "start"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			w.m.fail[at] = errors.New("no")
			if _, err := w.Install(t.Context(), w.d); err == nil {
				t.Fatal("no error")
			}
			delete(w.m.fail, at)
			w.install()
			w.told("load", "start")
		})
	}
}

// An install that ended between the copy and the restart left the old program
// running.
func TestInstallRestartsOlderProgram(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.m.state.PID = 77
	w.put(w.path("/old"), "program 0", 0o755)
	if err := errors.Join(os.MkdirAll(w.path("/proc/77"), 0o755), os.Symlink(w.path("/old"), w.path("/proc/77/exe"))); err != nil {
		t.Fatal(err)
	}
	if done := w.install(); !done.Restarted {
		t.Errorf("%+v", done)
	}
	if err := errors.Join(os.Remove(w.path("/proc/77/exe")), os.Symlink(w.path(testProgram), w.path("/proc/77/exe"))); err != nil {
		t.Fatal(err)
	}
	if done := w.install(); done.Restarted {
		t.Errorf("%+v", done)
	}
}

func TestInstallRefuses(t *testing.T) {
	type prepare func(*world)
	unit := func(text string) prepare { return func(w *world) { w.put(w.path(testUnit), text, 0o644) } }
	for name, tt := range map[string]struct {
		prepare prepare
		err     error
		text    string
		forced  bool // --force takes it
	}{
		"not root":         {prepare: func(w *world) { w.EUID = 1000 }, err: ErrNotRoot, text: "only root"},
		"another's unit":   {prepare: unit("[Service]\nExecStart=/opt/x\n"), err: ErrForeign, text: testUnit, forced: true},
		"another mark":     {prepare: unit("# fleet: service=other program=/x copied=yes state=/x\n"), err: ErrForeign, text: testUnit, forced: true},
		"a masked unit":    {prepare: func(w *world) { w.put(w.path(testUnit), "", 0o644); w.link("/dev/null", testUnit) }, err: ErrForeign, text: testUnit, forced: true},
		"NixOS":            {prepare: func(w *world) { w.put(w.path("/etc/NIXOS"), "", 0o644) }, err: ErrOwned, text: "NixOS", forced: true},
		"units in a store": {prepare: func(w *world) { w.store() }, err: ErrOwned, text: "Nix store"},
		"another name":     {prepare: func(w *world) { w.d.Program = "/bin/sh" }, text: "ends with /fleet-agent"},
		"in the store":     {prepare: func(w *world) { w.d.Program = "/nix/store/x/bin/fleet-agent" }, text: "outside of the Nix store"},
		"a relative path":  {prepare: func(w *world) { w.d.Program = "fleet-agent" }, text: "absolute"},
		"a directory":      {prepare: func(w *world) { w.put(w.path(testProgram+"/x"), "", 0o644) }, text: "is a directory"},
		"no such program":  {prepare: func(w *world) { w.d.From += "-not" }, text: "reading this program"},
		"before":           {prepare: func(w *world) { w.d.Before = func() error { return errors.New("no kit") } }, text: "no kit"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.prepare(w)
			_, err := w.Install(t.Context(), w.d)
			if err == nil || !strings.Contains(err.Error(), tt.text) || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v", err)
			}
			if tt.err != nil && ui.HintOf(err) == "" {
				t.Errorf("%v: what is to be done?", err)
			}
			if len(w.m.told) > 0 {
				t.Errorf("told the manager %v", w.m.told)
			}
			if w.d.Force = true; tt.forced {
				w.install()
				w.has(testUnit, "fleet: service=fleet-agent")
				if fi, err := os.Lstat(w.path(testUnit)); err != nil || !fi.Mode().IsRegular() {
					t.Errorf("%v, %v", fi, err)
				}
			}
		})
	}
}

// link makes a link of the host, replacing a file.
func (w *world) link(to, file string) {
	w.t.Helper()
	if err := errors.Join(os.Remove(w.path(file)), os.Symlink(to, w.path(file))); err != nil {
		w.t.Fatal(err)
	}
}

// store makes the directory of units one of NixOS's.
func (w *world) store() {
	w.put(w.path("/etc/static/systemd/system/x.service"), "", 0o644)
	w.put(w.path(systemdUnits), "", 0o644)
	w.link(w.path("/etc/static/systemd/system"), systemdUnits)
}

func TestUninstallRefuses(t *testing.T) {
	w := newWorld(t)
	w.put(w.path(testUnit), "[Service]\n", 0o644)
	if _, err := w.Uninstall(t.Context(), "fleet-agent", false); !errors.Is(err, ErrForeign) || ui.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	w.has(testUnit, "[Service]")
	w.EUID = 1
	if _, err := w.Uninstall(t.Context(), "fleet-agent", false); !errors.Is(err, ErrNotRoot) {
		t.Errorf("%v", err)
	}
}

// Idle leaves what does not run as it is, and restarts what does.
func TestInstallIdle(t *testing.T) {
	w := newWorld(t)
	w.d.Idle = true
	done := w.install()
	w.told("load")
	if r := done.Report("fleet-agent"); !slices.Contains(r.Next, "fleet-agent start") {
		t.Errorf("%+v", r)
	}
	w.m.state.Running = true
	w.put(w.d.From, "program 2", 0o755)
	w.install()
	w.told("load", "restart")
}
