package inventory_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

func loadFleet(t *testing.T, name string) *inventory.Fleet {
	t.Helper()
	f, err := inventory.Load(filepath.Join("testdata", "fleets", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFleet(t *testing.T) {
	f := loadFleet(t, "web.yaml")
	if f.ID() != "first" {
		t.Errorf("id %q", f.ID())
	}
	if want := (inventory.Coordinator{Machine: "cinnabar", Address: "cinnabar.zt:7443"}); f.Coordinator() != want {
		t.Errorf("coordinator %v", f.Coordinator())
	}
	wantOperators := []inventory.Operator{{Name: "cameron", Role: fleet.RoleAdmin}, {Name: "tara", Role: fleet.RoleViewer}}
	if diff := cmp.Diff(wantOperators, f.Operators()); diff != "" {
		t.Error(diff)
	}
	machines := f.Machines()
	if len(machines) != 13 {
		t.Errorf("%d machines, want 13", len(machines))
	}
	var disabled []fleet.MachineName
	for _, m := range machines {
		if m.Disabled {
			disabled = append(disabled, m.Name)
		}
	}
	if diff := cmp.Diff([]fleet.MachineName{"box3", "electrum"}, disabled); diff != "" {
		t.Error(diff)
	}
	box1, err := f.Machine("box1")
	if err != nil {
		t.Fatal(err)
	}
	want := inventory.Machine{
		Name: "box1", Class: fleet.ClassLinux, Tags: []string{"web", "edge", "linux", "all"}, Description: "Debian in the cellar",
		Place: inventory.Place{File: filepath.Join("testdata", "fleets", "web.yaml"), Line: 6},
	}
	if diff := cmp.Diff(want, box1); diff != "" {
		t.Error(diff)
	}
	box1.Tags[0] = "changed"
	if again, _ := f.Machine("box1"); again.Tags[0] != "web" {
		t.Error("a machine changed from outside")
	}
	if _, err := f.Machine("boks1"); !errors.Is(err, inventory.ErrUnknown) || !strings.Contains(err.Error(), `did you mean "box1"?`) {
		t.Errorf("unknown machine: %v", err)
	}
	// Clan did not compute its instances with this file's machines.
	for _, in := range f.Instances() {
		for _, r := range in.Roles {
			for _, m := range r.Members {
				if strings.HasPrefix(string(m), "box") {
					t.Errorf("%s is in role %s of %s", m, r.Name, in.Name)
				}
			}
		}
	}
}

func TestSettings(t *testing.T) {
	f := loadFleet(t, "web.yaml")
	at := func(path string) string { return filepath.Join(f.Dir(), path) }
	token := inventory.Secret{File: at("secrets/token.age"), Path: "token", Owner: "www-data", Mode: 0o440}
	expiry := fleet.Duration(90 * 24 * time.Hour)
	for machine, want := range map[fleet.MachineName]inventory.Deployment{
		"stibnite": {
			Policy: inventory.Policy{Policy: fleet.Policy{Mode: fleet.ModeObserve}, Expiry: expiry},
			Probes: []fleet.Probe{{Name: "agent", Kind: fleet.ProbeExec, Argv: []string{"/bin/true"}}},
		},
		"box3": {
			Policy:  inventory.Policy{Policy: fleet.Policy{Mode: fleet.ModeManage}, Expiry: expiry},
			Probes:  []fleet.Probe{{Name: "agent", Kind: fleet.ProbeExec, Argv: []string{"/bin/true"}}},
			Secrets: map[fleet.SecretName]inventory.Secret{"token": token},
		},
		"box2": {
			Source: inventory.Source{Driver: "bundle", Bundle: at("bundles/web")},
			Policy: inventory.Policy{Policy: fleet.Policy{Mode: fleet.ModeManage}, Expiry: expiry},
			Probes: []fleet.Probe{
				{Name: "agent", Kind: fleet.ProbeExec, Argv: []string{"/bin/true"}, Timeout: fleet.Duration(3 * time.Second)},
				{Name: "site", Kind: fleet.ProbeHTTP, URL: "http://127.0.0.1:8080/", Status: 204, Contains: "hello", Interval: fleet.Duration(2 * time.Second)},
			},
			Secrets: map[fleet.SecretName]inventory.Secret{"token": token},
		},
		"box1": {
			Source: inventory.Source{Driver: "bundle", Bundle: at("bundles/web")},
			Policy: inventory.Policy{
				Policy: fleet.Policy{Mode: fleet.ModeManage, VerifyDeadline: fleet.Duration(90 * time.Second)},
				Expiry: expiry,
			},
			Probes: []fleet.Probe{
				// Lists of several scopes are joined: all, class, tags, machine.
				{Name: "agent", Kind: fleet.ProbeExec, Argv: []string{"/bin/true", "--quiet"}, Timeout: fleet.Duration(3 * time.Second)},
				{Name: "site", Kind: fleet.ProbeHTTP, URL: "http://127.0.0.1:8080/", Contains: "hello"},
			},
			Secrets: map[fleet.SecretName]inventory.Secret{
				"token":   token,
				"tls.key": {File: "/etc/keys/tls.age", Path: "tls/key", Group: "33", Mode: 0o400, RestartUnits: []string{"nginx.service"}},
			},
			Age: "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
		},
	} {
		got, err := f.Settings(machine)
		if err != nil {
			t.Errorf("%s: %v", machine, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", machine, diff)
		}
	}
	if _, err := f.Settings("absent"); !errors.Is(err, inventory.ErrUnknown) {
		t.Errorf("unknown machine: %v", err)
	}
}

// A conflict stops the machines that have it, and no other.
func TestSettingsConflictIsOneMachines(t *testing.T) {
	f, err := inventory.Load("testdata/bad/conflict-scalar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Settings("box1"); !errors.Is(err, inventory.ErrConflict) {
		t.Errorf("box1: %v", err)
	}
	dep, err := f.Settings("box2")
	if err != nil || dep.Policy.Mode != fleet.ModeObserve {
		t.Errorf("box2: %v %v", dep.Policy.Mode, err)
	}
}

func TestInlineInventory(t *testing.T) {
	f := loadFleet(t, "inline.yaml")
	classes := map[fleet.MachineName]fleet.Class{}
	for _, m := range f.Machines() {
		classes[m.Name] = m.Class
	}
	want := map[fleet.MachineName]fleet.Class{"a": fleet.ClassLinux, "b": fleet.ClassNixOS, "c": fleet.ClassDarwin}
	if diff := cmp.Diff(want, classes); diff != "" {
		t.Error(diff)
	}
	wantInstances := []inventory.Instance{{
		Name: "backup", Module: inventory.Module{Name: "restic", Input: "self"},
		Roles: []inventory.Role{
			{Name: "client", Members: []fleet.MachineName{"a", "b", "c"}, Tags: []string{"all"}},
			{Name: "server", Members: []fleet.MachineName{"a", "c"}, Tags: []string{"db"}},
		},
	}}
	if diff := cmp.Diff(wantInstances, f.Instances()); diff != "" {
		t.Error(diff)
	}
	for machine, paths := range map[fleet.MachineName][]any{
		"a": {"/home"},
		"c": {"/var/backup", "/home"},
	} {
		got, err := f.EffectiveSettings("backup", "server", machine)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]any{"keep": int64(30), "paths": paths}, got); diff != "" {
			t.Errorf("%s: %s", machine, diff)
		}
	}
	for _, c := range [][3]string{{"bakup", "server", "a"}, {"backup", "serve", "a"}, {"backup", "server", "b"}} {
		if _, err := f.EffectiveSettings(c[0], c[1], fleet.MachineName(c[2])); !errors.Is(err, inventory.ErrUnknown) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

func TestFleetWithoutInventory(t *testing.T) {
	f, err := inventory.Parse("fleet.yaml", []byte("fleet: new\nmachines:\n# none yet\n"), "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Machines()) != 0 || len(f.Instances()) != 0 || f.Check() != nil || len(f.Warnings()) != 0 {
		t.Error("an empty fleet has something")
	}
	if _, err := f.EffectiveSettings("a", "b", "c"); !errors.Is(err, inventory.ErrUnknown) {
		t.Errorf("settings: %v", err)
	}
}

// A tag of a role that nobody carries is no error in clan.
func TestUnknownTagOfClanIsAWarning(t *testing.T) {
	inv, err := inventory.ParseInventory("inventory.json", []byte(`{"machines":{"m":{"machineClass":"nixos","tags":["all","webb"]}},
"tags":{"known":[]},
"instances":{"a":{"roles":{"r":{"tags":{
"web":{},"known":{}}}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `inventory.json:4: role r of instance a: no machine has the tag "web": did you mean "webb"?`
	if w := inv.Warnings(); len(w) != 1 || w[0].Error() != want {
		t.Errorf("warnings %v, want %s", w, want)
	}
}
