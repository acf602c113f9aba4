package nixdriver

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	ann     fleet.ProfileName = "home/ann"
	annHome                   = "/home/ann"
	homeOld                   = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rl-home-manager-generation"
	homeNew                   = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rm-home-manager-generation"
)

// newHome plays a host with a user whose home is there, and two generations, the
// newer of which leaves the profile to its caller.
func newHome(t *testing.T) (*world, *Home) {
	t.Helper()
	w := newWorld(t, "echo "+homeNew)
	w.dir(annHome)
	for _, path := range []string{homeOld, homeNew} {
		w.program(path+"/activate", "exit 0")
	}
	w.text(homeNew+"/gen-version", "1\n")
	c := w.config()
	c.Lookup = func(name string) (*user.User, error) {
		if name != "ann" {
			return nil, user.UnknownUserError(name)
		}
		return &user.User{Uid: strconv.Itoa(os.Getuid()), Username: name, HomeDir: annHome}, nil
	}
	return w, NewHome(c)
}

func (w *world) dir(name string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Join(w.root, name), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) text(name, text string) {
	w.t.Helper()
	w.dir(filepath.Dir(name))
	if err := os.WriteFile(filepath.Join(w.root, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// raw makes a link that says just this.
func (w *world) raw(name, target string) {
	w.t.Helper()
	w.dir(filepath.Dir(name))
	file := filepath.Join(w.root, name)
	_ = os.Remove(file)
	if err := os.Symlink(target, file); err != nil {
		w.t.Fatal(err)
	}
}

// runs has a generation be what was activated last, and another one the profile.
func (w *world) runs(current, profiled string) {
	w.t.Helper()
	if current != "" {
		w.raw(annHome+"/"+homeCurrent, current)
	}
	if profiled != "" {
		w.raw(annHome+"/"+homeProfiles+"/home-manager-1-link", profiled)
		w.raw(annHome+"/"+homeProfiles+"/home-manager", "home-manager-1-link")
	}
}

func TestHomeActivation(t *testing.T) {
	const (
		gcroots = "/nix/var/nix/gcroots/fleet/"
		profile = annHome + "/.local/state/nix/profiles/home-manager"
		set     = "/bin/nix-env --profile " + profile + " --set "
		sync    = "sync /nix/store /nix/var/nix/gcroots/fleet /home"
		one     = " --driver-version 1"
	)
	root := func(p string) string { return "link " + gcroots + filepath.Base(p) + " " + p }
	back := func(path string, more ...string) string {
		return strings.TrimRight(strings.Join(append([]string{"leave " + path}, more...), " "), " ")
	}
	for name, tt := range map[string]struct {
		current, profiled          string
		from, to                   string
		activate, commit, rollback []string
	}{
		"the first one": {
			to: homeNew, activate: []string{root(homeNew), homeNew + "/activate" + one, sync},
			commit: []string{set + homeNew, sync}, rollback: []string{root(homeNew), back(homeNew, profile), sync},
		},
		"the first one, by an old home-manager": {
			to: homeOld, activate: []string{root(homeOld), homeOld + "/activate", sync},
			rollback: []string{root(homeOld), back(homeOld, profile), sync},
		},
		"the next one": {
			current: homeOld, profiled: homeOld, from: homeOld, to: homeNew,
			activate: []string{root(homeOld), root(homeNew), homeNew + "/activate" + one, sync}, commit: []string{set + homeNew, sync},
			rollback: []string{root(homeNew), root(homeOld), back(homeNew), homeOld + "/activate", set + homeOld, sync},
		},
		"by hand before": {
			current: homeOld, profiled: homeOld, to: homeNew,
			activate: []string{root(homeOld), root(homeNew), homeNew + "/activate" + one, sync}, commit: []string{set + homeNew, sync},
			rollback: []string{root(homeNew), root(homeOld), back(homeNew), homeOld + "/activate", set + homeOld, sync},
		},
		"where the profile moved": {
			current: homeNew, profiled: homeNew, from: homeOld, to: homeNew,
			activate: []string{root(homeOld), root(homeNew), homeNew + "/activate" + one, sync}, commit: []string{set + homeNew, sync},
			rollback: []string{root(homeNew), root(homeOld), back(homeNew), homeOld + "/activate", set + homeOld, sync},
		},
		"where only the profile says what runs": {
			profiled: homeOld, to: homeNew,
			activate: []string{root(homeOld), root(homeNew), homeNew + "/activate" + one, sync}, commit: []string{set + homeNew, sync},
			rollback: []string{root(homeNew), root(homeOld), back(homeNew), homeOld + "/activate", set + homeOld, sync},
		},
		"where the profile is of what is gone": {
			profiled: homeOld + "x", to: homeNew,
			activate: []string{root(homeNew), homeNew + "/activate" + one, sync}, commit: []string{set + homeNew, sync},
			rollback: []string{root(homeNew), back(homeNew, profile), sync},
		},
		"the same again": {
			current: homeNew, profiled: homeNew, from: homeNew, to: homeNew,
			activate: []string{root(homeNew), root(homeNew), homeNew + "/activate" + one, sync},
			rollback: []string{root(homeNew), root(homeNew), homeNew + "/activate" + one, set + homeNew, sync},
		},
		"away": {
			current: homeNew, profiled: homeNew, from: homeNew,
			activate: []string{root(homeNew), back(homeNew, profile), sync},
			rollback: []string{root(homeNew), homeNew + "/activate" + one, set + homeNew, sync},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := newHome(t)
			w.dir(annHome + "/" + homeProfiles)
			w.runs(tt.current, tt.profiled)
			a, err := d.Activation(t.Context(), ann, tt.from, tt.to)
			if err != nil || a.Validate() != nil {
				t.Fatalf("%v, %v", err, a.Validate())
			}
			does(t, a, w.briefHome, tt.activate, tt.commit, tt.rollback)
			for _, s := range slices.Concat(a.Activate.Steps, a.Commit.Steps, a.Rollback.Steps) {
				x := s.Exec
				if x == nil {
					continue
				}
				want := []string{"PATH=" + w.config().Path, "HOME=" + annHome, "USER=ann", "LOGNAME=ann"}
				if diff := cmp.Diff(want, x.Env); diff != "" || x.User != "ann" || x.Dir != annHome {
					t.Errorf("%s runs as %q in %q with (-want +got):\n%s", x.Argv[0], x.User, x.Dir, diff)
				}
			}
		})
	}
}

// briefHome is brief, with a name for the script.
func (w *world) briefHome(a driver.Action) []string {
	lines := w.brief(a)
	for i, s := range a.Steps {
		if s.Exec != nil && s.Exec.Argv[0] == "/bin/sh" {
			lines[i] = strings.TrimRight(strings.Join(s.Exec.Argv[3:], " "), " ")
		}
	}
	return lines
}

func TestHomeSession(t *testing.T) {
	w, d := newHome(t)
	dir := "/run/user/" + strconv.Itoa(os.Getuid())
	env := func() string {
		a, err := d.Activation(t.Context(), ann, "", homeNew)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(a.Activate.Steps[1].Exec.Env, " ")
	}
	w.raw(dir, "/tmp")
	if strings.Contains(env(), "XDG_RUNTIME_DIR") {
		t.Error("a link counts as a session's directory")
	}
	if err := os.Remove(filepath.Join(w.root, dir)); err != nil {
		t.Fatal(err)
	}
	w.dir(dir)
	if !strings.HasSuffix(env(), " XDG_RUNTIME_DIR="+dir) {
		t.Errorf("got %s", env())
	}
}

// TestHomeProfilePlace: where the user has no profiles, those that Nix keeps count, if
// they are the user's.
func TestHomeProfilePlace(t *testing.T) {
	const shared = profilesDir + "/per-user/ann"
	w, d := newHome(t)
	place := func() string {
		t.Helper()
		_, st, err := d.fit(ann)
		if err != nil {
			t.Fatal(err)
		}
		return st.profile + " " + st.profiled
	}
	own := annHome + "/" + homeProfiles + "/home-manager "
	if os.Getuid() == 0 {
		own = shared + "/home-manager "
	}
	is := func(want string) {
		t.Helper()
		if got := place(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	is(own)
	w.raw(shared, annHome)
	is(own) // Anybody's link.
	if err := os.Remove(filepath.Join(w.root, shared)); err != nil {
		t.Fatal(err)
	}
	w.raw(shared+"/home-manager-3-link", homeOld)
	w.raw(shared+"/home-manager", "home-manager-3-link")
	is(shared + "/home-manager " + homeOld)
	w.runs("", homeNew)
	is(annHome + "/" + homeProfiles + "/home-manager " + homeNew)
}

func TestHomeCurrentAndDrift(t *testing.T) {
	const gone = storeDir + "/vi5vx9h0vz5h2z7g5q0k5cy5p3n3x0rn-home-manager-generation"
	for name, tt := range map[string]struct {
		current, profiled, path, runs string
		want                          driver.Drift
	}{
		"nothing":                     {path: homeNew},
		"as it was left":              {current: homeNew, profiled: homeNew, path: homeNew, runs: homeNew},
		"home-manager switch":         {homeOld, homeOld, homeNew, homeOld, driver.Drift{Runs: homeOld, Boots: homeOld}},
		"activate by hand":            {homeOld, homeNew, homeNew, homeOld, driver.Drift{Runs: homeOld}},
		"nix-env --rollback":          {homeNew, homeOld, homeNew, homeNew, driver.Drift{Boots: homeOld}},
		"collected":                   {gone, gone, gone, "", driver.Drift{Gone: true}},
		"what can't be gone back to":  {gone, homeNew, homeNew, homeNew, driver.Drift{Runs: gone}},
		"only the profile":            {"", homeOld, homeNew, homeOld, driver.Drift{Boots: homeOld}},
		"nothing that home-manager's": {good, "", homeNew, "", driver.Drift{Runs: good}},
	} {
		t.Run(name, func(t *testing.T) {
			w, d := newHome(t)
			w.runs(tt.current, tt.profiled)
			if path, err := d.Current(t.Context(), ann); path != tt.runs || err != nil {
				t.Errorf("runs %q, %v", path, err)
			}
			if got, err := d.Drift(t.Context(), ann, tt.path); got != tt.want || err != nil {
				t.Errorf("drift %+v, %v", got, err)
			}
		})
	}
	_, d := newHome(t)
	if path, err := d.Current(t.Context(), fleet.System); path != "" || err != nil {
		t.Errorf("the system: %q, %v", path, err)
	}
	if got, err := d.Drift(t.Context(), fleet.System, homeNew); got != (driver.Drift{}) || err != nil {
		t.Errorf("the system: %+v, %v", got, err)
	}
}

func TestHomeBuild(t *testing.T) {
	req := flake(unpinned)
	req.Profile, req.Source.Driver = ann, fleet.DriverHome
	t.Run("without a daemon", func(t *testing.T) {
		w, d := newHome(t)
		if path, err := d.Build(t.Context(), req, nil); path != homeNew || err != nil {
			t.Fatalf("%s, %v", path, err)
		}
		if n := strings.Count(w.calls(), "build "); n != 1 {
			t.Errorf("%d builds: %s", n, w.calls())
		}
	})
	t.Run("as the user", func(t *testing.T) {
		w, d := newHome(t)
		w.socket(daemonSocket)
		t.Setenv("FLEET_SECRET", "x")
		w.program("bin/nix", "echo \"$@\" >>"+w.root+"/calls\nenv >>"+w.root+"/env\nprevious=\nfor arg in \"$@\"; do [ \"$previous\" = --out-link ] && ln -sfn "+homeNew+" $arg; previous=$arg; done\necho "+homeNew)
		if path, err := d.Build(t.Context(), req, nil); path != homeNew || err != nil {
			t.Fatalf("%s, %v", path, err)
		}
		calls := strings.Split(strings.TrimSpace(w.calls()), "\n")
		if len(calls) != 2 || !strings.Contains(calls[0], "--no-link") || !strings.Contains(calls[0], "--expr") ||
			!strings.Contains(calls[1], "--out-link") || !strings.HasSuffix(calls[1], homeNew) {
			t.Errorf("%q", calls)
		}
		env, err := os.ReadFile(filepath.Join(w.root, "env"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(env), "FLEET_SECRET") // The agent's own has it.
		if !strings.Contains(first, "HOME="+annHome+"\n") || !strings.Contains(first, "USER=ann\n") {
			t.Errorf("%s", first)
		}
	})
	t.Run("another path than the pinned one", func(t *testing.T) {
		w, d := newHome(t)
		w.socket(daemonSocket)
		other := req
		f := *req.Source.Flake
		f.OutPath = homeOld[:len(homeOld)-1] + "x"
		other.Source.Flake = &f
		if _, err := d.Build(t.Context(), other, nil); !errors.Is(err, driver.ErrSource) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the system", func(t *testing.T) {
		_, d := newHome(t)
		other := req
		other.Profile = fleet.System
		if _, err := d.Build(t.Context(), other, nil); !errors.Is(err, driver.ErrSource) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no user", func(t *testing.T) {
		_, d := newHome(t)
		other := req
		other.Profile = "home/bob"
		if _, err := d.Build(t.Context(), other, nil); err == nil || errors.Is(err, driver.ErrSource) {
			t.Errorf("got %v", err)
		}
	})
}

// socket makes one below the root; its own path may be too long for one.
func (w *world) socket(name string) {
	w.t.Helper()
	w.dir(filepath.Dir(name))
	if err := unix.Mknod(filepath.Join(w.root, name), unix.S_IFSOCK|0o600, 0); err != nil {
		w.t.Fatal(err)
	}
}

// TestHomeBesidePrune: whoever clears away while a home is built leaves alone what comes of
// that, until it had time to be on record.
func TestHomeBesidePrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := newHome(t)
		w.dir(rootsDir)
		link := filepath.Join(w.root, rootsDir, "build-home-home-ann")
		w.link(rootsDir+"/build-home-home-ann", homeNew)
		w.link(rootsDir+"/build-home-home-bob", homeOld)
		letGo := spare(link)
		prune := func() []string {
			removed, err := d.Prune(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return removed
		}
		if removed := prune(); removed != nil {
			t.Errorf("removed %v", removed)
		}
		if _, err := os.Lstat(filepath.Join(w.root, rootsDir, "build-home-home-bob")); err == nil {
			t.Error("what another build left is there")
		}
		spareBuilt(d.root(homeNew))
		if err := d.keep(homeNew); err != nil {
			t.Fatal(err)
		}
		letGo()
		if removed := prune(); removed != nil {
			t.Errorf("removed %v", removed)
		}
		if _, err := os.Lstat(link); err == nil {
			t.Error("what is no longer built is there")
		}
		time.Sleep(recordedWithin)
		if removed := prune(); !slices.Equal(removed, []string{homeNew}) {
			t.Errorf("removed %v", removed)
		}
	})
}
