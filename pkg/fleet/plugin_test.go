package fleet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func withPlugins() fleet.Generation {
	digest := fleet.DigestOf(nil)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	executables := []fleet.PluginExecutable{
		{System: "darwin/arm64", Digest: digest, Size: 1}, {System: "linux/amd64", Digest: digest, Size: 2},
	}
	return fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: "f", Machine: "m", Profile: fleet.System, Release: "r",
		Number: fleet.Number{Epoch: 1, Seq: 1}, Issued: now, Expires: now.Add(time.Hour),
		Critical: []string{fleet.CriticalPlugins},
		Source:   fleet.Source{Driver: "files", External: &fleet.ExternalSource{Config: json.RawMessage(`{"a":1}`)}},
		Probes:   []fleet.Probe{{Name: "disk", Kind: fleet.ProbePlugin, Plugin: "disk-free"}},
		Plugins: []fleet.Plugin{
			{Name: "files", Kind: fleet.PluginDriver, Executables: executables},
			{Name: "disk-free", Kind: fleet.PluginProbe, Executables: executables},
		},
	}
}

func TestPlugins(t *testing.T) {
	good := withPlugins()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	if refs := good.PluginBlobs(); len(refs) != 4 {
		t.Errorf("%d executables to be stored, want 4", len(refs))
	}
	p, ok := good.Plugin("files", fleet.PluginDriver)
	if ref, on := p.On("linux/amd64"); !ok || !on || ref.Size != 2 {
		t.Errorf("linux/amd64 has %+v", ref)
	}
	if _, on := p.On("linux/riscv64"); on {
		t.Error("an executable for a system without one")
	}
	for name, change := range map[string]func(*fleet.Generation){
		"not critical":     func(g *fleet.Generation) { g.Critical = nil },
		"driver unpinned":  func(g *fleet.Generation) { g.Plugins = g.Plugins[1:] },
		"probe unpinned":   func(g *fleet.Generation) { g.Plugins = g.Plugins[:1] },
		"wrong kind":       func(g *fleet.Generation) { g.Plugins[0].Kind = fleet.PluginProbe },
		"unknown kind":     func(g *fleet.Generation) { g.Plugins[0].Kind = "hook" },
		"built-in's name":  func(g *fleet.Generation) { g.Plugins[1].Name = fleet.DriverBundle },
		"name":             func(g *fleet.Generation) { g.Plugins[1].Name = "../x" },
		"twice":            func(g *fleet.Generation) { g.Plugins = append(g.Plugins, g.Plugins[0]) },
		"many":             func(g *fleet.Generation) { g.Plugins = make([]fleet.Plugin, fleet.MaxPlugins+1) },
		"no executable":    func(g *fleet.Generation) { g.Plugins[0].Executables = nil },
		"many executables": func(g *fleet.Generation) { g.Plugins[0].Executables = make([]fleet.PluginExecutable, 9) },
		"system":           func(g *fleet.Generation) { g.Plugins[0].Executables[0].System = "linux" },
		"system twice":     func(g *fleet.Generation) { g.Plugins[0].Executables[1].System = "darwin/arm64" },
		"digest":           func(g *fleet.Generation) { g.Plugins[0].Executables[0].Digest = "md5:1" },
		"empty":            func(g *fleet.Generation) { g.Plugins[0].Executables[0].Size = 0 },
		"huge":             func(g *fleet.Generation) { g.Plugins[0].Executables[0].Size = fleet.MaxPluginBytes + 1 },
		"no content":       func(g *fleet.Generation) { g.Source.External = nil },
		"content of another": func(g *fleet.Generation) {
			g.Source.Bundle = &fleet.BundleSource{Digest: fleet.DigestOf(nil), Size: 1}
		},
		"for a built-in": func(g *fleet.Generation) { g.Source.Driver = fleet.DriverBundle },
		"config":         func(g *fleet.Generation) { g.Source.External.Config = json.RawMessage(`[1]`) },
		"half a config":  func(g *fleet.Generation) { g.Source.External.Config = json.RawMessage(`{"a"`) },
		"blank config":   func(g *fleet.Generation) { g.Source.External.Config = json.RawMessage(" ") },
		"large config": func(g *fleet.Generation) {
			g.Source.External.Config = json.RawMessage(`{"a":"` + strings.Repeat("x", fleet.MaxPluginConfigBytes) + `"}`)
		},
		"files":        func(g *fleet.Generation) { g.Source.External.Files = &fleet.BundleSource{Digest: "x", Size: 1} },
		"probe config": func(g *fleet.Generation) { g.Probes[0].Config = json.RawMessage(`1`) },
		"probe plugin": func(g *fleet.Generation) { g.Probes[0].Plugin = "" },
	} {
		t.Run(name, func(t *testing.T) {
			// Through JSON, so that nothing is shared.
			b, err := json.Marshal(good)
			if err != nil {
				t.Fatal(err)
			}
			var g fleet.Generation
			if err := json.Unmarshal(b, &g); err != nil {
				t.Fatal(err)
			}
			change(&g)
			if err := g.Validate(); !errors.Is(err, fleet.ErrInvalid) && !errors.Is(err, fleet.ErrName) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

func ExamplePlugin_On() {
	g := withPlugins()
	_, ok := g.Plugins[0].On("linux/amd64")
	fmt.Println(ok)
	// Output: true
}
