//go:build lab

package nixdriver

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
)

// These tests use the nix of the host, and its store, as root: they are for a
// host of the lab. The configuration of nix is the lab's (NIX_CONFIG).

const realFlake = `{
  outputs = { self }: let
    make = name: script: derivation {
      inherit name; system = builtins.currentSystem or "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
    };
    dep = make "dep" "mkdir $out; echo VERSION > $out/file";
  in {
    a.good = make "nixos-system-real" "mkdir -p $out/bin; ln -s ${dep} $out/dep; printf '#!/bin/sh\n' > $out/bin/switch-to-configuration; chmod +x $out/bin/switch-to-configuration";
    a.bad = make "bad" "echo it is broken; exit 3";
    a.killed = make "killed" "kill -9 $$";
    a.thrown = throw "not configured";
  };
}
`

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// realSource commits a flake and pins it.
func realSource(t *testing.T, version string) fleet.FlakeSource {
	t.Helper()
	return realTree(t, strings.Replace(realFlake, "VERSION", version, 1))
}

// realTree commits a flake that anybody may read.
func realTree(t *testing.T, text string) fleet.FlakeSource {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "real-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	command(t, "git", "-C", dir, "init", "-q")
	command(t, "git", "-C", dir, "add", "-A")
	command(t, "git", "-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "x")
	url := "git+file://" + dir + "?rev=" + command(t, "git", "-C", dir, "rev-parse", "HEAD")
	out, err := exec.CommandContext(t.Context(), "nix", "flake", "metadata", "--json", url).Output()
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ Locked struct{ NarHash string } }
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	return fleet.FlakeSource{URL: url, NarHash: m.Locked.NarHash, Attr: "a.good"}
}

func nixSystem() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}

func request(f fleet.FlakeSource) driver.BuildRequest {
	return driver.BuildRequest{Profile: fleet.System, Source: fleet.Source{Driver: fleet.DriverNixOS, Flake: &f}}
}

func TestRealBuild(t *testing.T) {
	d := NewNixOS(Config{})
	src := realSource(t, t.TempDir())
	path, err := d.Build(t.Context(), request(src), nil)
	if err != nil {
		t.Fatal(err)
	}
	if roots := command(t, "nix-store", "--gc", "--print-roots"); !strings.Contains(roots, rootsDir+"/"+filepath.Base(path)+" -> "+path) {
		t.Errorf("no root of %s in %s", path, roots)
	}
	src.OutPath = path
	if again, err := d.Build(t.Context(), request(src), nil); again != path || err != nil {
		t.Errorf("again: %s, %v", again, err)
	}
	for name, c := range map[string]struct {
		change func(*fleet.FlakeSource)
		says   string
		final  bool
	}{
		"another tree": {func(f *fleet.FlakeSource) { f.NarHash, f.OutPath = other, "" }, mismatch + "narHash", true},
		"another out path": {func(f *fleet.FlakeSource) {
			f.OutPath = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos-system-other"
		}, mismatch + "out path", true},
		"a broken builder": {func(f *fleet.FlakeSource) { f.Attr, f.OutPath = "a.bad", "" }, "it is broken", true},
		"a killed builder": {func(f *fleet.FlakeSource) { f.Attr, f.OutPath = "a.killed", "" }, "signal 9", false},
		"a throw":          {func(f *fleet.FlakeSource) { f.Attr, f.OutPath = "a.thrown", "" }, "not configured", true},
		"no attribute":     {func(f *fleet.FlakeSource) { f.Attr, f.OutPath = "a.none", "" }, "'none' missing", true},
		"no repository": {func(f *fleet.FlakeSource) {
			f.URL, f.OutPath = "git+file:///nowhere?rev=1111111111111111111111111111111111111111", ""
		}, "Cannot find Git revision", false},
	} {
		changed := src
		c.change(&changed)
		_, err := d.Build(t.Context(), request(changed), nil)
		if err == nil || errors.Is(err, driver.ErrSource) != c.final || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want final %t and %q", name, err, c.final, c.says)
		}
		t.Logf("%s: %v", name, err)
	}
	if removed, err := d.Prune(t.Context(), nil); err != nil || len(removed) == 0 {
		t.Errorf("%v, %v", removed, err)
	}
	if roots := command(t, "nix-store", "--gc", "--print-roots"); strings.Contains(roots, path) {
		t.Errorf("a root is left: %s", roots)
	}
}

func TestRealManifest(t *testing.T) {
	d := NewNixOS(Config{})
	src := realSource(t, t.TempDir())
	path, err := d.Build(t.Context(), request(src), nil)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "nix", "path-info", "--json", "--recursive", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	infos, err := nix.DecodePathInfo(out)
	if err != nil {
		t.Fatal(err)
	}
	m := fleet.ClosureManifest{Type: fleet.TypeClosure, Fleet: "f", Root: path}
	for _, i := range infos {
		m.Paths = append(m.Paths, i.ClosurePath)
	}
	try := func() error {
		t.Helper()
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		req := driver.BuildRequest{Profile: fleet.System, Closure: filepath.Join(t.TempDir(), "closure"), Source: fleet.Source{
			Driver: fleet.DriverNixOS, StorePath: &fleet.StorePathSource{Path: path},
		}}
		if err := os.WriteFile(req.Closure, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = d.Build(t.Context(), req, nil)
		return err
	}
	if err := try(); err != nil {
		t.Error(err)
	}
	m.Paths[0].NarHash = other
	if err := try(); !errors.Is(err, driver.ErrSource) {
		t.Errorf("got %v", err)
	}
}

// TestRealRepair: what a power loss empties is found and built again, from the
// derivation or, where that is gone too, from the source.
func TestRealRepair(t *testing.T) {
	d := NewNixOS(Config{})
	src := realSource(t, t.TempDir())
	path, err := d.Build(t.Context(), request(src), nil)
	if err != nil {
		t.Fatal(err)
	}
	dep, err := os.Readlink(filepath.Join(path, "dep"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dep, "file")
	damage := func(file string) {
		t.Helper()
		if err := errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 0)); err != nil {
			t.Fatal(err)
		}
		if err := d.Verify(t.Context(), path); !errors.Is(err, driver.ErrNotBuilt) {
			t.Fatalf("got %v", err)
		}
	}
	whole := func() {
		t.Helper()
		if err := d.Verify(t.Context(), path); err != nil {
			t.Error(err)
		}
		if fi, err := os.Stat(file); err != nil || fi.Size() == 0 {
			t.Errorf("%v, %v", fi, err)
		}
	}
	damage(file)
	if err := d.Repair(t.Context(), path); err != nil {
		t.Error(err)
	}
	whole()
	// Its derivation is empty too: then only the source helps.
	drv := command(t, "nix-store", "--query", "--deriver", dep)
	if err := errors.Join(os.Chmod(drv, 0o600), os.Truncate(drv, 0)); err != nil {
		t.Fatal(err)
	}
	damage(file)
	if err := d.Repair(t.Context(), path); !errors.Is(err, driver.ErrNotBuilt) {
		t.Errorf("got %v", err)
	}
	if again, err := d.Build(t.Context(), request(src), nil); again != path || err != nil {
		t.Errorf("%s, %v", again, err)
	}
	whole()
}

// TestRealTrees: a source that a power loss emptied is fetched anew, and what is
// built is what was pinned.
func TestRealTrees(t *testing.T) {
	d := NewNixOS(Config{})
	src := realSource(t, t.TempDir())
	want, err := d.Build(t.Context(), request(src), nil)
	if err != nil {
		t.Fatal(err)
	}
	src.OutPath = want
	tree, err := d.treeOf(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	// What was built goes, so that it is evaluated again.
	entries, err := os.ReadDir(rootsDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, _ := os.Readlink(filepath.Join(rootsDir, e.Name())); to == want {
			command(t, "rm", filepath.Join(rootsDir, e.Name()))
		}
	}
	command(t, "nix-store", "--delete", want)
	file := filepath.Join(tree, "flake.nix")
	if err := errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 0)); err != nil {
		t.Fatal(err)
	}
	var said []string
	got, err := d.Build(t.Context(), request(src), func(p driver.Progress) { said = append(said, p.Message) })
	if err != nil || got != want || !strings.Contains(strings.Join(said, "\n"), "fetched anew what was damaged: "+tree) {
		t.Errorf("%s, %v, %q", got, err, said)
	}
	if _, err := os.Lstat(treesDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", treesDir, err)
	}
}
