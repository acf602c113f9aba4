package nixdriver

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	macOld   = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rl-darwin-system-25.11"
	macNew   = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rm-darwin-system-26.05"
	macOther = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rn-darwin-system-26.05"
)

// newMac plays a Mac with three systems: an old one, whose activate does not do all, and
// two of today's.
func newMac(t *testing.T) (*world, *Darwin) {
	t.Helper()
	w := newWorld(t, "echo "+macNew)
	for _, path := range []string{macOld, macNew, macOther} {
		w.program(path+"/activate", "exit 0")
	}
	w.program(macOld+"/activate-user", "set -e")
	w.program(macOld+"/"+darwinRebuild, "exit 0")
	w.program(macNew+"/activate-user", "# nix-darwin: deprecated\nexit 0")
	return w, NewDarwin(w.config())
}

func TestDarwinActivation(t *testing.T) {
	const (
		gcroots = "/nix/var/nix/gcroots/fleet/"
		set     = "/bin/nix-env --profile /nix/var/nix/profiles/system --set "
		sync    = "sync /nix/store /nix/var/nix/profiles"
		unless  = " unless /nix/var/nix/profiles/system "
	)
	root := func(p string) string { return "link " + gcroots + filepath.Base(p) + " " + p }
	oldWay, newWay := macOld+"/sw/bin/darwin-rebuild activate", macNew+"/activate"
	forth := []string{root(macOld), root(macNew), newWay, sync}
	commit := []string{set + macNew, sync}
	back := func(profile string) []string {
		return []string{root(macOld), oldWay, set + profile + unless + profile, sync}
	}
	for name, tt := range map[string]struct {
		current, profiled, from, to string
		activate, commit, rollback  []string
	}{
		"from an old one":            {macOld, macOld, macOld, macNew, forth, commit, back(macOld)},
		"from whatever runs":         {macOld, macOld, "", macNew, forth, commit, back(macOld)},
		"where the profile moved":    {macOld, macNew, macOld, macNew, forth, commit, back(macOld)},
		"where the profile is third": {macOld, macOther, macOld, macNew, forth, commit, back(macOther)},
		"away from nix-darwin":       {macOld, macOld, macOld, "", nil, nil, nil},
		"the same again": {
			macNew, macNew, macNew, macNew,
			[]string{root(macNew), root(macNew), newWay, sync},
			nil,
			[]string{root(macNew), newWay, set + macNew + unless + macNew, sync},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := newMac(t)
			w.link("run/current-system", tt.current)
			w.link(systemProfile, tt.profiled)
			a, err := d.Activation(t.Context(), fleet.System, tt.from, tt.to)
			if err != nil || a.Validate() != nil {
				t.Fatalf("%v, %v", err, a.Validate())
			}
			does(t, a, w.brief, tt.activate, tt.commit, tt.rollback)
			for _, s := range slices.Concat(a.Activate.Steps, a.Commit.Steps, a.Rollback.Steps) {
				if x := s.Exec; x != nil && (x.User != "" || !strings.Contains(strings.Join(x.Env, " "), "HOME=/var/root USER=root")) {
					t.Errorf("%q runs as %q with %q", x.Argv, x.User, x.Env)
				}
			}
		})
	}
}

func TestDarwinRefuses(t *testing.T) {
	w, d := newMac(t)
	if _, err := d.Activation(t.Context(), fleet.System, "", macNew); err == nil {
		t.Error("from nothing, where nothing runs")
	}
	r, err := d.Hindrance(t.Context(), fleet.System)
	if err != nil || r.Code != fleet.ReasonNoSystem || r.Hint == "" {
		t.Errorf("%+v, %v", r, err)
	}
	w.link("run/current-system", macOld)
	if r, err := d.Hindrance(t.Context(), fleet.System); err != nil || r.Code != "" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := d.Hindrance(t.Context(), "home/ann"); err != nil || r.Code != "" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := d.Activation(t.Context(), fleet.System, macOld, dep); !errors.Is(err, driver.ErrNotBuilt) {
		t.Errorf("got %v", err)
	}
	if _, err := d.Activation(t.Context(), "home/ann", macOld, macNew); err == nil {
		t.Error("a home profile")
	}
	req := flake(unpinned)
	req.Source.Driver = fleet.DriverDarwin
	if path, err := d.Build(t.Context(), req, nil); path != macNew || err != nil {
		t.Errorf("%s, %v", path, err)
	}
	req.Profile = "home/ann"
	if _, err := d.Build(t.Context(), req, nil); !errors.Is(err, driver.ErrSource) {
		t.Errorf("got %v", err)
	}
}

func TestDarwinDrift(t *testing.T) {
	for name, tt := range map[string]struct {
		current, profiled string
		want              driver.Drift
	}{
		"as it was left":              {macNew, macNew, driver.Drift{}},
		"darwin-rebuild switch":       {macOther, macOther, driver.Drift{Runs: macOther, Boots: macOther}},
		"darwin-rebuild that failed":  {macNew, macOther, driver.Drift{Boots: macOther}},
		"activate, without a profile": {macOther, macNew, driver.Drift{Runs: macOther}},
	} {
		w, d := newMac(t)
		w.link("run/current-system", tt.current)
		w.link(systemProfile, tt.profiled)
		if got, err := d.Drift(t.Context(), fleet.System, macNew); got != tt.want || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestDarwinPermits: what macOS denies the agent holds a system that needs it, is named
// with what to do, and holds nobody who had it not tried, nor where it can't be told.
func TestDarwinPermits(t *testing.T) {
	yes, no := func(string) error { return nil }, func(string) error { return syscall.EPERM }
	odd := func(string) error { return syscall.EIO }
	const both = checksApps + "() {\n:\n}\n" + writesGuarded + " x\n"
	for name, tt := range map[string]struct {
		script      string
		touch, read func(string) error
		unchecked   []string
		want        fleet.ReasonCode
	}{
		"all permitted":                      {both, yes, yes, nil, ""},
		"no App Management":                  {both, no, yes, nil, fleet.ReasonNoAppManagement},
		"no Full Disk Access":                {both, yes, no, nil, fleet.ReasonNoFullDiskAccess},
		"neither":                            {both, no, no, nil, fleet.ReasonNoAppManagement},
		"neither, and one is not tried":      {both, no, no, []string{permission.AppManagement}, fleet.ReasonNoFullDiskAccess},
		"neither, and none is tried":         {both, no, no, permission.Names, ""},
		"neither, and the system needs none": {"exit 0\n", no, no, nil, ""},
		"another failure is no denial":       {both, odd, odd, nil, ""},
	} {
		w, _ := newMac(t)
		w.program(macNew+"/activate", tt.script)
		w.link("run/current-system", macNew)
		if err := os.MkdirAll(filepath.Join(w.root, "Applications/Nix Apps/Emacs.app"), 0o755); err != nil {
			t.Fatal(err)
		}
		c := w.config()
		c.Permits, c.Unchecked = permission.System{Root: w.root, Touch: tt.touch, Read: tt.read}, tt.unchecked
		r, err := NewDarwin(c).Hindrance(t.Context(), fleet.System)
		if err != nil || r.Code != tt.want || (r.Code != "") != strings.Contains(r.Hint, "--skip-check") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
