package nixdriver

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	good = "/nix/store/65gka6fgrlfrrwbhd5ndycs96zs0m946-nixos-system-good"
	old  = "/nix/store/fnrdlmjq00lxfplp4vcs5dppg5mc9aw8-nixos-system-old"
	dep  = "/nix/store/fnrdlmjq00lxfplp4vcs5dppg5mc9aw8-dep"
)

// world is a place with a nix that does what a script says, and a store.
type world struct {
	t    *testing.T
	root string
	// raid says that GRUB can't write to where its environment is.
	raid bool
}

func newWorld(t *testing.T, script string) *world {
	t.Helper()
	w := &world{t: t, root: t.TempDir()}
	for _, dir := range []string{"bin", storeDir, profilesDir, "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(w.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// It logs its arguments, and makes the link that it is asked for.
	w.program("bin/nix", "echo \"$@\" >>"+w.root+"/calls\nprevious=\nfor arg in \"$@\"; do [ \"$previous\" = --out-link ] && ln -sfn "+good+" $arg; previous=$arg; done\n"+script)
	w.program("bin/nix-env", "exit 0")
	w.system(good)
	w.system(old)
	return w
}

func (w *world) program(name, script string) {
	w.t.Helper()
	file := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) system(path string) { w.program(filepath.Join(path, switchProgram), "exit 0") }

// link points below the root.
func (w *world) link(name, path string) {
	w.t.Helper()
	file := filepath.Join(w.root, name)
	_ = os.Remove(file)
	if err := os.Symlink(filepath.Join(w.root, path), file); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) config() Config {
	return Config{
		Root: w.root, Path: filepath.Join(w.root, "bin") + ":/usr/bin:/bin", Deadline: time.Minute,
		GRUBWrites: func(string) (string, error) {
			if w.raid {
				return "it is of RAID", nil
			}
			return "", nil
		},
	}
}

func (w *world) calls() string {
	data, err := os.ReadFile(filepath.Join(w.root, "calls"))
	if err != nil {
		return ""
	}
	return string(data)
}

func flake(change ...func(*fleet.FlakeSource)) driver.BuildRequest {
	f := &fleet.FlakeSource{URL: "git+https://example.org/fleet?rev=abc", NarHash: narHash, Attr: "a.b", OutPath: good}
	for _, c := range change {
		c(f)
	}
	return driver.BuildRequest{Profile: fleet.System, Source: fleet.Source{Driver: fleet.DriverNixOS, Flake: f}}
}

func unpinned(f *fleet.FlakeSource) { f.OutPath = "" }

func TestBuild(t *testing.T) {
	w := newWorld(t, "echo building something >&2; echo "+good)
	var said []string
	path, err := NewNixOS(w.config()).Build(t.Context(), flake(unpinned), func(p driver.Progress) { said = append(said, p.Message) })
	if err != nil || path != good {
		t.Fatalf("%s, %v", path, err)
	}
	if diff := cmp.Diff([]string{"building something"}, said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(filepath.Join(w.root, rootsDir))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(good) {
		t.Errorf("roots %v, %v", entries, err)
	}
	if n := strings.Count(w.calls(), "build "); n != 1 || !strings.Contains(w.calls(), "--pure-eval --expr let tree") {
		t.Errorf("%d builds: %s", n, w.calls())
	}
	// A pinned path that is here is not evaluated again.
	if _, err := NewNixOS(w.config()).Build(t.Context(), flake(), nil); err != nil {
		t.Fatal(err)
	}
	if last := w.calls()[strings.LastIndex(w.calls(), "build "):]; strings.Contains(last, "--expr") || !strings.Contains(last, good) {
		t.Errorf("called %s", last)
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		req    driver.BuildRequest
		says   string
		final  bool
	}{
		"another driver":   {"", driver.BuildRequest{Profile: fleet.System, Source: fleet.Source{Driver: "bundle"}}, "for driver", true},
		"another profile":  {"", driver.BuildRequest{Profile: "home/a", Source: flake().Source}, "system only", true},
		"another out path": {"echo " + good, flake(func(f *fleet.FlakeSource) { f.OutPath = dep }), "is pinned", true},
		"two outputs":      {"echo " + good + "; echo " + good, flake(unpinned), "not one output", true},
		"no system":        {"echo " + dep, flake(unpinned), "no program bin/switch-to-configuration", true},
		"too much":         {"yes | head -c 100000", flake(unpinned), "too much", false},
		"a bad attribute":  {"", flake(unpinned, func(f *fleet.FlakeSource) { f.Attr = "a..b" }), "attribute", true},
		"a failing build":  {"echo 'error: attribute missing' >&2; exit 1", flake(unpinned), "attribute missing", true},
		"no network":       {"echo 'error: unable to download' >&2; exit 1", flake(unpinned), "unable to download", false},
		"a killed nix":     {"kill -9 $$", flake(unpinned), "ended by a signal", false},
		"no manifest":      {"", flake(func(f *fleet.FlakeSource) { f.Closure = &fleet.BlobRef{} }), "not handed over", false},
		"no nix":           {"-", flake(unpinned), "there is no nix", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.script)
			if c.script == "-" {
				if err := os.Remove(filepath.Join(w.root, "bin/nix")); err != nil {
					t.Fatal(err)
				}
			}
			config := w.config()
			config.Path = filepath.Join(w.root, "bin") + ":/usr/bin:/bin"
			_, err := NewNixOS(config).Build(t.Context(), c.req, nil)
			if c.script == "-" && executable("/usr/bin/nix") {
				return // a machine with a nix of its own
			}
			if err == nil || errors.Is(err, driver.ErrSource) != c.final || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want final %t and %q", err, c.final, c.says)
			}
			if entries, _ := os.ReadDir(filepath.Join(w.root, rootsDir)); len(entries) > 1 {
				t.Errorf("roots are left: %v", entries)
			}
		})
	}
}

// TestBuildWithManifest: the closure is compared before the path is anything.
func TestBuildWithManifest(t *testing.T) {
	manifest := fleet.ClosureManifest{Type: fleet.TypeClosure, Fleet: "f", Root: good, Paths: []fleet.ClosurePath{
		{Path: good, NarHash: narHash, NarSize: 1, References: []string{dep}}, {Path: dep, NarHash: other, NarSize: 2},
	}}
	const info = `{"` + good + `":{"narHash":"` + narHash + `","narSize":1,"references":["` + dep + `"]},"` + dep + `":{"narHash":"` + other + `","narSize":2,"references":[]}}`
	for name, c := range map[string]struct {
		info string
		says string
	}{
		"as pinned":          {info, ""},
		"another content":    {strings.Replace(info, other, narHash, 1), "a cache gave something else"},
		"another size":       {strings.Replace(info, `"narSize":2`, `"narSize":3`, 1), "3 bytes"},
		"other references":   {strings.Replace(info, `["`+dep+`"]`, `[]`, 1), "other references"},
		"a path more":        {strings.Replace(info, `{"`, `{"`+old+`":{"narHash":"`+other+`","narSize":2,"references":[]},"`, 1), "not in its manifest"},
		"a path less":        {`{"` + good + `":{"narHash":"` + narHash + `","narSize":1,"references":["` + dep + `"]}}`, "not in the closure"},
		"nothing that it is": {"{}", "not in the closure"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "case $1 in build) echo "+good+" ;; path-info) cat $0.json ;; esac")
			if err := os.WriteFile(filepath.Join(w.root, "bin/nix.json"), []byte(c.info), 0o600); err != nil {
				t.Fatal(err)
			}
			data, err := json.Marshal(manifest)
			if err != nil {
				t.Fatal(err)
			}
			req := driver.BuildRequest{Profile: fleet.System, Closure: filepath.Join(w.root, "closure"), Source: fleet.Source{
				Driver: fleet.DriverNixOS, StorePath: &fleet.StorePathSource{Path: good},
			}}
			if err := os.WriteFile(req.Closure, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = NewNixOS(w.config()).Build(t.Context(), req, nil)
			if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, driver.ErrSource) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if entries, _ := os.ReadDir(filepath.Join(w.root, rootsDir)); (len(entries) == 1) != (c.says == "") {
				t.Errorf("roots: %v", entries)
			}
		})
	}
}

func TestPrune(t *testing.T) {
	w := newWorld(t, "")
	d := NewNixOS(w.config())
	if removed, err := d.Prune(t.Context(), nil); err != nil || removed != nil {
		t.Errorf("%v, %v", removed, err)
	}
	if err := os.MkdirAll(filepath.Join(w.root, rootsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{good, old} {
		if err := d.keep(path); err != nil {
			t.Fatal(err)
		}
	}
	w.link(rootsDir+"/build-nixos-system", good)
	w.link(rootsDir+"/current-system", dep)
	removed, err := d.Prune(t.Context(), []string{good, "/elsewhere/x"})
	if diff := cmp.Diff([]string{old}, removed); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	var left []string
	entries, err := os.ReadDir(filepath.Join(w.root, rootsDir))
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if diff := cmp.Diff([]string{filepath.Base(good), "current-system"}, left); diff != "" || err != nil {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}

func TestVerifyAndRepair(t *testing.T) {
	w := newWorld(t, `[ -e $0.mended ] || { echo "path '`+dep+`' was modified! expected hash 'x', got 'y'" >&2; exit 1; }`)
	d := NewNixOS(w.config())
	if err := os.MkdirAll(filepath.Join(w.root, rootsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.Verify(t.Context(), good); !errors.Is(err, driver.ErrNotBuilt) || !strings.Contains(err.Error(), dep) {
		t.Errorf("got %v", err)
	}
	w.program("bin/nix-store", `exit 1`)
	if err := d.Repair(t.Context(), good); !errors.Is(err, driver.ErrNotBuilt) {
		t.Errorf("got %v", err)
	}
	if !d.damage.any() {
		t.Error("builds do not repair")
	}
	w.program("bin/nix-store", `[ "$1 $2" = "--repair-path `+dep+`" ] && touch `+w.root+`/bin/nix.mended`)
	if err := d.Repair(t.Context(), good); err != nil || d.damage.any() {
		t.Errorf("got %v", err)
	}
}
