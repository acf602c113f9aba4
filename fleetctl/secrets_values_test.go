package fleetctl

import (
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
)

// TestPartialFlake: who does not evaluate the flake takes nothing that reads of it for
// wrong, or changed.
func TestPartialFlake(t *testing.T) {
	w := newVarsWorld(t)
	w.write(`fleet: first
machines: {box1: }
vars:
  flake: {url: .}
  generators: {site: {script: ":", dependencies: [of-the-flake], rerunOnChange: true, files: {x: {}}}}
`, repo.FleetFile)
	w.ok("inventory", "check")
	w.nix = "/nowhere/nix"
	w.fails(exitError, "nix is not installed here", "vars", "generate")
	if out := w.ok("secrets", "list"); strings.Contains(out, "site") {
		t.Errorf("listed\n%s", out)
	}
}
