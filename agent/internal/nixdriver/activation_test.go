package nixdriver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// brief writes an action in a line a step.
func (w *world) brief(a driver.Action) []string {
	var lines []string
	for _, s := range a.Steps {
		line := ""
		switch {
		case s.Link != nil:
			line = "link " + s.Link.Path + " " + s.Link.Target
		case s.Sync != nil:
			line = "sync " + strings.Join(s.Sync.Paths, " ")
		case s.BootOnce != nil:
			line = s.BootOnce.Program + " in " + s.BootOnce.Entries + " boots once " + s.BootOnce.Init
			if s.BootOnce.Stays != "" {
				line += ", and then " + s.BootOnce.Stays
			}
		case s.Exec != nil:
			line = strings.Join(s.Exec.Argv, " ")
			if u := s.Exec.Unless; u != nil {
				line += " unless " + u.Path + " " + u.Target
			}
		}
		lines = append(lines, strings.ReplaceAll(line, w.root, ""))
	}
	return lines
}

func TestNixOSActivation(t *testing.T) {
	w := newWorld(t, "")
	d := NewNixOS(w.config())
	w.link("run/current-system", old)
	w.link(profilesDir+"/system", old)
	if path, err := d.Current(t.Context(), fleet.System); path != old || err != nil {
		t.Fatalf("%s, %v", path, err)
	}
	const (
		gcroots = "/nix/var/nix/gcroots/fleet/"
		set     = "/bin/nix-env --profile /nix/var/nix/profiles/system --set "
		sync    = "sync /nix/store /nix/var/nix/profiles"
		unless  = " unless /nix/var/nix/profiles/system "
	)
	root := func(p string) string { return "link " + gcroots + filepath.Base(p) + " " + p }
	commit := []string{set + good, sync, good + "/" + switchProgram + " boot", sync}
	forth := []string{root(old), root(good), good + "/" + switchProgram + " test"}
	back := func(profile string) []string {
		return []string{
			root(old), old + "/" + switchProgram + " test",
			profile + "/" + switchProgram + " boot" + unless + profile, set + profile + unless + profile, sync,
		}
	}
	check := func(name, from, to string, activate, commit, rollback []string) {
		t.Helper()
		a, err := d.Activation(t.Context(), fleet.System, from, to)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := a.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		t.Log(name)
		does(t, a, w.brief, activate, commit, rollback)
	}
	check("to a new system", old, good, forth, commit, back(old))
	check("from whatever runs", "", good, forth, commit, back(old))
	check("away from NixOS", old, "", nil, nil, nil)
	// As a rollback by a person finds it: the profile moved with the commit.
	w.link(profilesDir+"/system", good)
	check("where the profile moved", old, good, forth, commit, back(old))
	// A person had installed something else to boot into: it stays.
	third := "/nix/store/1xdqsd4a0g4ibn8dchh3057d3qf2gcfi-nixos-system-third"
	w.system(third)
	w.link(profilesDir+"/system", third)
	check("where another system boots", old, good, forth, commit, back(third))
	w.link(profilesDir+"/system", good)
	if a, err := d.Activation(t.Context(), fleet.System, good, good); err != nil || !a.Commit.IsZero() {
		t.Errorf("an installed system is installed again: %+v, %v", a.Commit, err)
	}
	test := func(a driver.Action) *driver.Exec {
		for _, s := range a.Steps {
			if s.Exec != nil {
				return s.Exec
			}
		}
		return &driver.Exec{}
	}
	a, err := d.Activation(t.Context(), fleet.System, old, good)
	if x := test(a.Activate); err != nil || x.FailedUnitsCode != 4 || x.BusyCodes[0] != 11 || !x.Contained || x.Meanings[100] == "" {
		t.Errorf("%+v, %v", x, err)
	}
	if boot := a.Commit.Steps[2].Exec; boot.FailedUnitsCode != 0 || len(boot.OKCodes) != 0 {
		t.Errorf("a boot loader that fails is taken for well: %+v", boot)
	}
}

func TestNixOSActivationRefuses(t *testing.T) {
	w := newWorld(t, "")
	d := NewNixOS(w.config())
	if _, err := d.Activation(t.Context(), fleet.System, "", good); err == nil {
		t.Error("from nothing, where nothing runs")
	}
	if _, err := d.Activation(t.Context(), "home/a", old, good); err == nil {
		t.Error("a home profile")
	}
	for _, path := range []string{dep, "/etc", good + "/bin"} {
		if _, err := d.Activation(t.Context(), fleet.System, old, path); !errors.Is(err, driver.ErrNotBuilt) {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := d.Activation(t.Context(), fleet.System, path, good); !errors.Is(err, driver.ErrNotBuilt) {
			t.Errorf("%s: %v", path, err)
		}
	}
	w.link("run/current-system", "/etc")
	if _, err := d.Current(t.Context(), fleet.System); err == nil {
		t.Error("a system out of the store")
	}
	if path, err := d.Current(t.Context(), "home/a"); path != "" || err != nil {
		t.Errorf("%s, %v", path, err)
	}
}

func TestOutPathActivation(t *testing.T) {
	w := newWorld(t, "")
	w.program(good+"/activate", "exit 0")
	w.program(good+"/deactivate", "exit 0")
	w.program(old+"/bin/activate", "exit 0")
	d := NewOutPath(w.config())
	const gcroots = "/nix/var/nix/gcroots/fleet/"
	root := func(p string) string { return "link " + gcroots + filepath.Base(p) + " " + p }
	for _, c := range []struct {
		name, from, to string
		activate, back []string
	}{
		{
			"first", "", good,
			[]string{root(good), "link " + gcroots + "current-system " + good, good + "/activate"},
			[]string{root(good), good + "/deactivate", "link " + gcroots + "current-system "},
		},
		{
			"next", old, good,
			[]string{root(old), root(good), "link " + gcroots + "current-system " + good, good + "/activate"},
			[]string{root(good), root(old), "link " + gcroots + "current-system " + old, old + "/bin/activate"},
		},
		{
			"away, without a deactivate", old, "",
			[]string{root(old), "link " + gcroots + "current-system "},
			[]string{root(old), "link " + gcroots + "current-system " + old, old + "/bin/activate"},
		},
	} {
		a, err := d.Activation(t.Context(), fleet.System, c.from, c.to)
		if err != nil || a.Validate() != nil {
			t.Fatalf("%s: %v, %v", c.name, err, a.Validate())
		}
		// What was installed is durable before it counts.
		sync := strings.Join(append([]string{"sync /nix/store /nix/var/nix/gcroots/fleet"}, driver.InstallPlaces()...), " ")
		if diff := cmp.Diff([][]string{append(c.activate, sync), append(c.back, sync)}, [][]string{w.brief(a.Activate), w.brief(a.Rollback)}); diff != "" || !a.Commit.IsZero() {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	a, err := d.Activation(t.Context(), "home/ann", "", good)
	if x := a.Activate.Steps[2].Exec; err != nil || x.User != "ann" || x.Dir != good {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := d.Activation(t.Context(), fleet.System, "", dep); !errors.Is(err, driver.ErrNotBuilt) {
		t.Errorf("got %v", err)
	}
	if _, err := d.Activation(t.Context(), fleet.System, "", ""); err == nil {
		t.Error("from nothing to nothing")
	}
}

// TestOutPathCurrent: a system of system-manager's own counts at first.
func TestOutPathCurrent(t *testing.T) {
	w := newWorld(t, "")
	d := NewOutPath(w.config())
	is := func(want string) {
		t.Helper()
		if got, err := d.Current(t.Context(), fleet.System); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	is("")
	if err := os.MkdirAll(filepath.Join(w.root, filepath.Dir(systemManager)), 0o755); err != nil {
		t.Fatal(err)
	}
	w.link(systemManager, old)
	is("") // it has no activate
	w.program(old+"/bin/activate", "exit 0")
	is(old)
	if err := os.MkdirAll(filepath.Join(w.root, rootsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	w.link(rootsDir+"/current-system", good)
	is(good)
}

func TestIsNixOS(t *testing.T) {
	w := newWorld(t, "")
	release := filepath.Join(w.root, "etc/os-release")
	for _, c := range []struct {
		text string
		want bool
	}{{"ID=debian\n", false}, {"NAME=x\nID=\"nixos\"\n", true}, {"VARIANT_ID=nixos\n", false}} {
		if err := os.WriteFile(release, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if IsNixOS(w.root) != c.want {
			t.Errorf("%q", c.text)
		}
	}
	if err := os.WriteFile(filepath.Join(w.root, "etc/NIXOS"), nil, 0o600); err != nil || !IsNixOS(w.root) {
		t.Errorf("not by its mark: %v", err)
	}
}

// does compares what an activation does, in brief, with what it should.
func does(t *testing.T, a driver.Activation, brief func(driver.Action) []string, activate, commit, rollback []string) {
	t.Helper()
	for _, c := range []struct {
		what string
		want []string
		got  driver.Action
	}{{"activate", activate, a.Activate}, {"commit", commit, a.Commit}, {"rollback", rollback, a.Rollback}} {
		if diff := cmp.Diff(c.want, brief(c.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, diff)
		}
	}
}
