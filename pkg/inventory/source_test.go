package inventory_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

func TestSources(t *testing.T) {
	f := loadFleet(t, "nix.yaml")
	for machine, want := range map[fleet.MachineName]inventory.Source{
		"cinnabar": {Driver: "nixos", Flake: f.Dir(), Attr: "nixosConfigurations.cinnabar.config.system.build.toplevel", Build: true},
		"pyrite":   {Driver: "nixos", Flake: f.Dir(), Attr: "nixosConfigurations.pyrite.config.system.build.toplevel"},
		"mirrored": {Driver: "nix", Flake: filepath.Join(f.Dir(), "../real"), Attr: `a."b.c".mirrored`, URL: "git+https://example.org/fleet?ref=main"},
		"debian":   {Driver: "nix", Flake: "github:owner/repository", Attr: "systemConfigs.debian"},
		"stibnite": {Driver: "darwin", Flake: "git+ssh://git@example.org/fleet", Attr: "darwinConfigurations.stibnite.system"},
		"prebuilt": {Driver: "nixos", StorePath: "/nix/store/nkxbjifz8ci65dss1zjvlhyfbg51prmb-nixos-system-a"},
		"linked":   {Driver: "nix", StorePath: filepath.Join(f.Dir(), "result")},
		"none":     {},
	} {
		dep, err := f.Settings(machine)
		if err != nil {
			t.Errorf("%s: %v", machine, err)
			continue
		}
		if diff := cmp.Diff(want, dep.Source); diff != "" {
			t.Errorf("%s (-want +got):\n%s", machine, diff)
		}
		if dep.Source.IsZero() != (machine == "none") {
			t.Errorf("%s: IsZero is %v", machine, dep.Source.IsZero())
		}
	}
}
