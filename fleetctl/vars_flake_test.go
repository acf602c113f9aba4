package fleetctl

import (
	"runtime"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestVarsOfFlake: what a flake declares is listed, checked and set as what fleet.yaml does.
func TestVarsOfFlake(t *testing.T) {
	w := newVarsWorld(t)
	w.write(`fleet: first
machines: {box1: , box2: , none: }
vars:
  flake: {url: "`+nixtest.Ref+`", rerunOnChange: true}
  generators: {token: {kind: token, machines: [box1]}}
`, repo.FleetFile)
	system := map[string]string{"linux/amd64": "x86_64-linux", "linux/arm64": "aarch64-linux", "darwin/arm64": "aarch64-darwin"}[runtime.GOOS+"/"+runtime.GOARCH]
	n := nixtest.New(t, "generators", nixtest.ForSystem(t, "generators", system)...)
	w.nix = n.Program
	if got := w.ok("vars", "list", "box2"); got != "x/pw: <not set>\nx/tok: <not set>\n" {
		t.Errorf("listed\n%s", got)
	}
	code, out, _ := w.run("vars", "check")
	if code != exitError || !strings.Contains(out, "vars/shared/x/pw: missing") || !strings.Contains(out, "vars/per-machine/box1/token/token: missing") {
		t.Errorf("exit %d\n%s", code, out)
	}
	w.answers = "typed"
	w.ok("vars", "set", "box2", "x/tok")
	if got := w.ok("vars", "get", "box1", "x/tok"); got != "typed" {
		t.Errorf("%q", got)
	}
	if got := w.ok("secrets", "list"); !strings.Contains(got, "machine box1, machine box2, user tara") {
		t.Errorf("readers\n%s", got)
	}
	w.ok("inventory", "check")
	// Without nix it says so, instead of taking the declarations for gone.
	w.nix = "/nowhere/nix"
	w.fails(exitError, "nix is not installed here", "vars", "check")
}

// TestRevokeOfFlake: what a flake's generators make is within systems: of that the time is
// recorded, for each machine that has it.
func TestRevokeOfFlake(t *testing.T) {
	w := newVarsWorld(t)
	w.write(`fleet: first
machines: {box1: , box2: , none: }
vars:
  flake: {url: "`+nixtest.Ref+`"}
`, repo.FleetFile)
	system := map[string]string{"linux/amd64": "x86_64-linux", "linux/arm64": "aarch64-linux", "darwin/arm64": "aarch64-darwin"}[runtime.GOOS+"/"+runtime.GOARCH]
	w.nix = nixtest.New(t, "generators", nixtest.ForSystem(t, "generators", system)...).Program
	out := w.ok("secrets", "revoke", "x/tok")
	for _, m := range []string{"box1", "box2"} {
		if !strings.Contains(out, m+": systems have values of x in themselves") {
			t.Errorf("said\n%s", out)
		}
		r, err := repo.At(w.dir).Revoked(fleet.MachineName(m))
		if err != nil || r.Before.IsZero() || len(r.Floors) > 0 {
			t.Errorf("%s: %+v, %v", m, r, err)
		}
	}
	if r, err := repo.At(w.dir).Revoked("none"); err != nil || !r.Before.IsZero() {
		t.Errorf("a machine that has none: %+v, %v", r, err)
	}
	if strings.Contains(out, "Publish to box1, box2, none") || !strings.Contains(out, "Publish to box1, box2 ") {
		t.Errorf("said\n%s", out)
	}
}
