package fleet_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	hash1   = "0c7v3r9xm1s5fzkqw2ynd4ghil8jpab6"
	narHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
)

func storePath(name string) string { return "/nix/store/" + hash1 + "-" + name }

func flakeSource(f func(*fleet.FlakeSource)) fleet.Source {
	s := &fleet.FlakeSource{
		URL: "git+https://example.org/fleet?rev=4b825dc642cb6eb9a060e54bf8d69288fbee4904", NarHash: narHash,
		Attr: "nixosConfigurations.electrum.config.system.build.toplevel", OutPath: storePath("system"),
		Closure: &fleet.BlobRef{Digest: fleet.DigestOf(nil), Size: 1},
	}
	f(s)
	return fleet.Source{Driver: fleet.DriverNixOS, Flake: s}
}

func TestSources(t *testing.T) {
	ref := fleet.BlobRef{Digest: fleet.DigestOf(nil), Size: 1}
	for _, c := range []struct {
		name   string
		source fleet.Source
		ok     bool
	}{
		{"flake", flakeSource(func(*fleet.FlakeSource) {}), true},
		{"flake without out path", flakeSource(func(f *fleet.FlakeSource) { f.OutPath, f.Closure = "", nil }), true},
		{"closure without out path", flakeSource(func(f *fleet.FlakeSource) { f.OutPath = "" }), false},
		{"no url", flakeSource(func(f *fleet.FlakeSource) { f.URL = "" }), false},
		{"registry name", flakeSource(func(f *fleet.FlakeSource) { f.URL = "nixpkgs" }), false},
		{"fragment", flakeSource(func(f *fleet.FlakeSource) { f.URL += "#x" }), false},
		{"long url", flakeSource(func(f *fleet.FlakeSource) { f.URL += strings.Repeat("x", 5000) }), false},
		{"no narHash", flakeSource(func(f *fleet.FlakeSource) { f.NarHash = "" }), false},
		{"another hash", flakeSource(func(f *fleet.FlakeSource) { f.NarHash = "md5-" + narHash[7:] }), false},
		{"no attribute", flakeSource(func(f *fleet.FlakeSource) { f.Attr = "" }), false},
		{"attribute as option", flakeSource(func(f *fleet.FlakeSource) { f.Attr = "--impure" }), false},
		{"output in attribute", flakeSource(func(f *fleet.FlakeSource) { f.Attr = "x^out" }), false},
		{"out path elsewhere", flakeSource(func(f *fleet.FlakeSource) { f.OutPath = "/etc/passwd" }), false},
		{"huge closure", flakeSource(func(f *fleet.FlakeSource) { f.Closure.Size = fleet.MaxClosureBytes + 1 }), false},
		{"store path", fleet.Source{Driver: fleet.DriverNix, StorePath: &fleet.StorePathSource{Path: storePath("x"), Closure: ref}}, true},
		{"store path without closure", fleet.Source{Driver: fleet.DriverNix, StorePath: &fleet.StorePathSource{Path: storePath("x")}}, false},
		{"nothing", fleet.Source{Driver: fleet.DriverNix}, false},
		{"bundle for nixos", fleet.Source{Driver: fleet.DriverNixOS, Bundle: &fleet.BundleSource{Digest: ref.Digest, Size: 1}}, false},
		{"two kinds", fleet.Source{
			Driver: fleet.DriverBundle, Bundle: &fleet.BundleSource{Digest: ref.Digest, Size: 1},
			StorePath: &fleet.StorePathSource{Path: storePath("x"), Closure: ref},
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.source.Validate(); (err == nil) != c.ok || err != nil && !errors.Is(err, fleet.ErrInvalid) && !errors.Is(err, fleet.ErrName) {
				t.Errorf("got %v, want good: %t", err, c.ok)
			}
		})
	}
}

func TestStorePaths(t *testing.T) {
	for p, ok := range map[string]bool{
		storePath("hello-2.12.1"):              true,
		storePath("a+b-._?=Z"):                 true,
		storePath(""):                          false,
		storePath(".hidden"):                   false,
		storePath("a/bin"):                     false,
		storePath("a b"):                       false,
		storePath(strings.Repeat("x", 212)):    false,
		"/nix/store/" + hash1:                  false,
		"/nix/store/" + hash1[1:] + "-x":       false,
		"/nix/store/" + "e" + hash1[1:] + "-x": false, // Nix's base 32 has no e, o, t, u.
		"nix/store/" + hash1 + "-x":            false,
		"/nix/store/../store/" + hash1 + "-x":  false,
	} {
		if err := fleet.ValidateStorePath(p); (err == nil) != ok {
			t.Errorf("%q: got %v, want good: %t", p, err, ok)
		}
	}
}

func TestClosures(t *testing.T) {
	a, b := storePath("a"), storePath("b")
	closure := func(f func(*fleet.ClosureManifest)) *fleet.ClosureManifest {
		m := &fleet.ClosureManifest{
			Type: fleet.TypeClosure, Fleet: "first-fleet", Root: b,
			Paths: []fleet.ClosurePath{{Path: a, NarHash: narHash}, {Path: b, NarHash: narHash, References: []string{a, b}}},
		}
		f(m)
		return m
	}
	for _, c := range []struct {
		name    string
		closure *fleet.ClosureManifest
		ok      bool
	}{
		{"good", closure(func(*fleet.ClosureManifest) {}), true},
		{"another type", closure(func(m *fleet.ClosureManifest) { m.Type = fleet.TypeRoot }), false},
		{"no fleet", closure(func(m *fleet.ClosureManifest) { m.Fleet = "" }), false},
		{"empty", closure(func(m *fleet.ClosureManifest) { m.Paths = nil }), false},
		{"root missing", closure(func(m *fleet.ClosureManifest) { m.Root = storePath("c") }), false},
		{"out of order", closure(func(m *fleet.ClosureManifest) { m.Paths[0], m.Paths[1] = m.Paths[1], m.Paths[0] }), false},
		{"twice", closure(func(m *fleet.ClosureManifest) { m.Paths[0] = m.Paths[1] }), false},
		{"dangling reference", closure(func(m *fleet.ClosureManifest) { m.Paths[0].References = []string{storePath("c")} }), false},
		{"references out of order", closure(func(m *fleet.ClosureManifest) { m.Paths[1].References = []string{b, a} }), false},
		{"no hash", closure(func(m *fleet.ClosureManifest) { m.Paths[0].NarHash = "" }), false},
		{"no store path", closure(func(m *fleet.ClosureManifest) { m.Paths[0].Path = "/a" }), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.closure.Validate(); (err == nil) != c.ok {
				t.Errorf("got %v, want good: %t", err, c.ok)
			}
		})
	}
}
