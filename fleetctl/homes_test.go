package fleetctl

import (
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes/nixtest"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
)

// TestPublishHomes: each profile of a machine gets a generation of its own, also where
// the machine has no source; names of machines select all of theirs.
func TestPublishHomes(t *testing.T) {
	w, n := nixWorld(t, flakeSource, "good")
	w.write(`fleet: first
coordinator: {machine: a, address: "127.0.0.1:1"}
machines: {a: {class: nixos}, b: {class: darwin}}
operators: {cameron: {role: admin}}
settings:
  class: {nixos: {source: `+flakeSource+`}}
  all: {profiles: {home/ann: {source: `+flakeSource+`}}}
  machine: {a: {profiles: {home/bob: {source: {bundle: ./bundles/web}, policy: {mode: observe}}}}}
`, repo.FleetFile)
	w.golden("publish-homes", w.ok("publish", "--no-eval"))
	if n.Calls() != "flake" {
		t.Errorf("calls of nix: %q", n.Calls())
	}
	res := w.published("--no-eval", "b")
	if len(res.Generations) != 1 {
		t.Fatalf("%+v", res.Generations)
	}
	g := res.Generations[0]
	if g.Profile != "home/ann" || g.Number != "1.2" || g.Source.Driver != "home" || g.Source.Flake.URL != nixtest.Ref+"?ref=refs/heads/main&rev="+nixtest.Rev ||
		g.Source.Flake.Attr != `homeConfigurations."ann@aarch64-darwin".activationPackage` {
		t.Errorf("%+v", g)
	}
	if out := w.ok("inventory", "show"); !strings.Contains(out, `home/bob`) || !strings.Contains(out, "observe") {
		t.Errorf("shown as\n%s", out)
	}
}
