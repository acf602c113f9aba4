package inventory_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

func loadReal(t *testing.T, name string) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.LoadInventory(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func TestRealInventoryRolesEqualClans(t *testing.T) {
	data, err := os.ReadFile("testdata/real-inventory.resolved.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]map[string][]fleet.MachineName
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"real-inventory.json", "real-inventory.raw.json"} {
		inv := loadReal(t, name)
		if n := len(inv.Machines()); n != 10 {
			t.Errorf("%s: %d machines, want 10", name, n)
		}
		if n := len(inv.Instances()); n != 11 {
			t.Errorf("%s: %d instances, want 11", name, n)
		}
		got := map[string]map[string][]fleet.MachineName{}
		for _, in := range inv.Instances() {
			got[in.Name] = map[string][]fleet.MachineName{}
			for _, r := range in.Roles {
				got[in.Name][r.Name] = r.Members
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: role members (-clan +ours):\n%s", name, diff)
		}
		if w := inv.Warnings(); len(w) > 0 {
			t.Errorf("%s: warnings: %v", name, w)
		}
		if err := inv.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRawAndUnwrappedInventoriesAreEqual(t *testing.T) {
	raw, plain := loadReal(t, "real-inventory.raw.json"), loadReal(t, "real-inventory.json")
	ignorePlace := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Place" }, cmp.Ignore())
	for _, part := range []struct {
		name       string
		plain, raw any
	}{
		{"meta", plain.Meta(), raw.Meta()},
		{"machines", plain.Machines(), raw.Machines()},
		{"instances", plain.Instances(), raw.Instances()},
		{"settings", allSettings(t, plain), allSettings(t, raw)},
	} {
		if diff := cmp.Diff(part.plain, part.raw, ignorePlace); diff != "" {
			t.Errorf("%s (-unwrapped +raw):\n%s", part.name, diff)
		}
	}
}

func allSettings(t *testing.T, inv *inventory.Inventory) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, in := range inv.Instances() {
		for _, r := range in.Roles {
			for _, m := range r.Members {
				s, err := inv.EffectiveSettings(in.Name, r.Name, m)
				if err != nil {
					t.Errorf("settings of %s %s %s: %v", in.Name, r.Name, m, err)
				}
				all[in.Name+" "+r.Name+" "+string(m)] = s
			}
		}
	}
	return all
}

func TestRealMachine(t *testing.T) {
	inv := loadReal(t, "real-inventory.raw.json")
	got, ok := inv.Machine("cinnabar")
	if !ok {
		t.Fatal("no cinnabar")
	}
	want := inventory.Machine{
		Name: "cinnabar", Class: fleet.ClassNixOS,
		Tags:        []string{"nixos", "cloud", "hetzner", "controller", "all"},
		Description: "Primary VPS, zerotier controller",
		Deploy:      inventory.Deploy{TargetHost: "root@cinnabar.zt"},
		InstalledAt: time.Unix(1763061719, 0).UTC(),
		Place:       got.Place,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Place.Line == 0 || got.Place.File == "" {
		t.Errorf("no place: %v", got.Place)
	}
	if _, ok := inv.Machine("gcp-vm"); ok {
		t.Error("gcp-vm is in vars only")
	}
}

func TestRealEffectiveSettings(t *testing.T) {
	inv := loadReal(t, "real-inventory.raw.json")
	got, err := inv.EffectiveSettings("user-cameron", "default", "pyrite")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"groups": []any{"wheel", "networkmanager"}, "prompt": false, "share": true, "user": "cameron"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// The result is the caller's own.
	got["user"] = "changed"
	again, err := inv.EffectiveSettings("user-cameron", "default", "pyrite")
	if err != nil || again["user"] != "cameron" {
		t.Errorf("settings changed from outside: %v %v", again["user"], err)
	}
}
