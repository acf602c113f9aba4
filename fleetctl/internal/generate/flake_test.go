package generate

import (
	"context"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/sandbox"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

func declaredByFlake(share bool, dependencies ...string) flakes.Declared {
	const store = "/nix/store/3j36i4libxrhvhlzc0wmj806byh41zxx-x"
	return flakes.Declared{
		Share: share, Dependencies: dependencies, Script: flakes.Output{Drv: store + ".drv", Name: "out", Path: store},
		Prompts: map[string]flakes.DeclaredPrompt{"tok": {Type: "hidden", Persist: true}},
		Files:   map[string]flakes.DeclaredFile{"tok": {Secret: true, Deploy: true, NeededFor: "services"}, "secret": {Deploy: true, NeededFor: "services"}},
	}
}

func resolveFlake(t *testing.T, machines map[string]map[string]flakes.Declared) (*Set, error) {
	t.Helper()
	f, err := inventory.Parse("fleet.yaml", []byte(twoMachines+"    token: {kind: token, share: true}\n"), "/fleet", nil)
	if err != nil {
		t.Fatal(err)
	}
	return Resolve(f, &Flake{Machines: machines, RerunOnChange: true})
}

// recordingBox keeps what it is to run.
type recordingBox struct{ jobs []sandbox.Job }

func (b *recordingBox) Run(_ context.Context, j sandbox.Job) (generator.Files, error) {
	b.jobs = append(b.jobs, j)
	return generator.Files{"tok": generator.NewValue([]byte("t")), "secret": generator.NewValue([]byte("public"))}, nil
}

func (b *recordingBox) Close() error { return nil }

// TestFlake: what a flake declares is one set with what the fleet file does, its scripts
// are built before anything is asked, and run by their store paths.
func TestFlake(t *testing.T) {
	set, err := resolveFlake(t, map[string]map[string]flakes.Declared{
		"box1": {"site": declaredByFlake(true), "own": declaredByFlake(false, "token", "site")}, "box2": {"site": declaredByFlake(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := newTree(t, `token: {kind: token, share: true}`)
	f.set = set
	box := &recordingBox{}
	c := f.begin()
	defer c.Close() //nolint:errcheck // A test's.
	runner := f.runner(c)
	runner.Sandbox = func(context.Context) (Sandbox, error) { return box, nil }
	built := 0
	runner.Build = func(_ context.Context, list []flakes.Output) error {
		built += len(list)
		if len(f.asks) > 0 {
			t.Error("asked before it was known that the scripts can be built")
		}
		return nil
	}
	ran, err := runner.Run(t.Context(), Request{})
	if err != nil || namesOf(ran) != "shared/site shared/token per-machine/box1/own" || built != 1 {
		t.Fatalf("%s, %d built: %v", namesOf(ran), built, err)
	}
	if _, err := c.Commit(); err != nil {
		t.Fatal(err)
	}
	j := box.jobs[1]
	if !strings.HasPrefix(j.Program, "/nix/store/") || j.Machine != "box1" || len(j.Inputs["site"]) != 2 || len(j.Inputs["token"]) != 1 || len(j.Kept) != 1 {
		t.Errorf("job %+v", j)
	}
	if v, err := f.open().Value("vars/shared/site/secret"); err != nil || string(v) != "public" {
		t.Errorf("%q, %v", v, err)
	}
	if found := f.set.Check(f.open(), f.set.All()); len(found) != 0 {
		t.Errorf("%v", found)
	}
}

func TestFlakeRefused(t *testing.T) {
	other := declaredByFlake(true)
	other.ValidationHash = "x"
	none := declaredByFlake(false)
	none.Files = nil
	escape := declaredByFlake(false)
	escape.Files = map[string]flakes.DeclaredFile{"../x": {}}
	for want, machines := range map[string]map[string]map[string]flakes.Declared{
		"another one on machine box2 than on box1": {"box1": {"site": declaredByFlake(true)}, "box2": {"site": other}},
		"it makes no file":                         {"box1": {"x": none}},
		"malformed name":                           {"box1": {"x": escape}},
		"is declared at":                           {"box1": {"token": declaredByFlake(false)}},
		"read each other":                          {"box1": {"a": declaredByFlake(false, "b"), "b": declaredByFlake(false, "a")}},
		"is not declared":                          {"box1": {"a": declaredByFlake(false, "nope")}},
	} {
		if _, err := resolveFlake(t, machines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	// Owners of a shared one's files may differ.
	owned := declaredByFlake(true)
	owned.Files["tok"] = flakes.DeclaredFile{Secret: true, Deploy: true, NeededFor: "services", Owner: "web"}
	if _, err := resolveFlake(t, map[string]map[string]flakes.Declared{"box1": {"site": declaredByFlake(true)}, "box2": {"site": owned}}); err != nil {
		t.Error(err)
	}
}
