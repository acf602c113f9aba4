package inventory_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

func seed(f *testing.F, patterns ...string) {
	f.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
}

// isProblem says whether an error is one that a person can act on.
func isProblem(err error) bool {
	var p *inventory.Problem
	return errors.As(err, &p) && p.File != "" && p.Message != ""
}

// checkInventory looks at all that an accepted inventory gives away.
func checkInventory(t *testing.T, inv *inventory.Inventory) {
	t.Helper()
	for _, m := range inv.Machines() {
		if _, err := fleet.ParseMachineName(string(m.Name)); err != nil {
			t.Error(err)
		}
		if _, err := fleet.ParseClass(string(m.Class)); err != nil {
			t.Error(err)
		}
	}
	conflicts := false
	for _, in := range inv.Instances() {
		for _, r := range in.Roles {
			for _, m := range r.Members {
				settings, err := inv.EffectiveSettings(in.Name, r.Name, m)
				if err != nil {
					conflicts = true
					if !isProblem(err) {
						t.Errorf("settings: %v", err)
					}
					continue
				}
				if _, err := json.Marshal(settings); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if err := inv.Check(); (err != nil) != conflicts {
		t.Errorf("Check says %v, settings conflict: %t", err, conflicts)
	}
}

func FuzzParseInventory(f *testing.F) {
	seed(f, "testdata/bad/*.json", "testdata/real-inventory.raw.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		inv, err := inventory.ParseInventory("inventory.json", data)
		if err != nil {
			if !isProblem(err) {
				t.Errorf("no problem: %v", err)
			}
			return
		}
		checkInventory(t, inv)
	})
}

func FuzzParseFleet(f *testing.F) {
	seed(f, "testdata/bad/*.yaml", "testdata/fleets/*.yaml")
	small := []byte(`{"machines": {"cinnabar": {"machineClass": "nixos", "tags": ["all", "nixos"]}}}`)
	read := func(string) ([]byte, error) { return small, nil }
	f.Fuzz(func(t *testing.T, data []byte) {
		fl, err := inventory.Parse("fleet.yaml", data, "/fleet", read)
		if err != nil {
			if !isProblem(err) {
				t.Errorf("no problem: %v", err)
			}
			return
		}
		if _, err := fleet.ParseFleetID(string(fl.ID())); err != nil {
			t.Error(err)
		}
		for _, m := range fl.Machines() {
			dep, err := fl.Settings(m.Name)
			if err != nil && !isProblem(err) {
				t.Errorf("settings of %s: %v", m.Name, err)
			}
			if _, err := json.Marshal(dep); err != nil {
				t.Error(err)
			}
		}
		checkInventory(t, fl.Inventory())
	})
}

func FuzzParseMachineKey(f *testing.F) {
	f.Add([]byte(`[{"publickey":"` + recipient + `","type":"age"}]`))
	f.Add([]byte(`{"publickey":"` + recipient + `","type":"age"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := inventory.ParseMachineKey(data)
		if err != nil {
			return
		}
		if _, err := inventory.ParseRecipient(key); err != nil {
			t.Errorf("%q was accepted: %v", key, err)
		}
	})
}
