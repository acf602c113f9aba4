package inventory_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

func TestProfiles(t *testing.T) {
	f := loadFleet(t, "homes.yaml")
	attr := func(name string) string { return `homeConfigurations."` + name + `".activationPackage` }
	for machine, want := range map[fleet.MachineName]map[fleet.ProfileName]inventory.Source{
		"pyrite": {
			"home/cameron": {Driver: "home", Flake: f.Dir(), Attr: attr("cameron@x86_64-linux")},
			"home/kit":     {Driver: "bundle", Bundle: filepath.Join(f.Dir(), "bundles/kit")},
			"home/tara":    {Driver: "home", Flake: f.Dir(), Attr: attr("tara@pyrite"), Build: true},
		},
		"stibnite": {"home/cameron": {Driver: "home", Flake: f.Dir(), Attr: attr("cameron@aarch64-darwin")}},
		"pi": {
			"home/pi":   {Driver: "home", Flake: "github:pi/dotfiles", Attr: attr("pi@aarch64-linux")},
			"home/root": {Driver: "home", StorePath: "/nix/store/nkxbjifz8ci65dss1zjvlhyfbg51prmb-home-manager-generation"},
		},
		"bare": {},
	} {
		dep, err := f.Settings(machine)
		if err != nil {
			t.Errorf("%s: %v", machine, err)
			continue
		}
		got := map[fleet.ProfileName]inventory.Source{}
		for _, p := range dep.Profiles {
			got[p.Name] = p.Source
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", machine, diff)
		}
	}
	dep, err := f.Settings("pyrite")
	if err != nil {
		t.Fatal(err)
	}
	if dep.SourceOf(fleet.System).Driver != "nixos" || dep.SourceOf("home/kit").Bundle == "" || !dep.SourceOf("home/nobody").IsZero() {
		t.Errorf("sources of %+v", dep)
	}
	tara := dep.Profiles[2]
	if tara.Name != "home/tara" || len(tara.Probes) != 1 || len(dep.Probes) != 0 ||
		tara.Policy.Mode != fleet.ModeObserve || dep.Policy.Mode != "" || tara.Policy.ActivationDeadline != fleet.Duration(5*time.Minute) {
		t.Errorf("%+v", tara)
	}
}
