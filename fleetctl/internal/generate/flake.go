package generate

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// Flake are the generators that a flake declares, by machine and name.
type Flake struct {
	// Place is where the fleet file names the flake.
	Place inventory.Place
	// RerunOnChange is that of all of its scripts.
	RerunOnChange bool
	Machines      map[string]map[string]flakes.Declared
}

// generators are those of a flake, one for each machine or one that they share. One that is
// shared must be declared alike by all of its machines, but for who owns the files.
func (f *Flake) generators() (list []*Generator, problems inventory.Problems) {
	shared := map[string]*Generator{}
	said := map[string]string{}
	for _, machine := range slices.Sorted(maps.Keys(f.Machines)) {
		for _, name := range slices.Sorted(maps.Keys(f.Machines[machine])) {
			d := f.Machines[machine][name]
			if d.Share && shared[name] != nil {
				if alike(d) != said[name] {
					problems = append(problems, problemAt(f.Place, "declare it alike for all machines, or unshared",
						"the shared generator %s is another one on machine %s than on %s", name, machine, shared[name].Machines[0]))
				}
				shared[name].Machines = append(shared[name].Machines, machine)
				continue
			}
			g, err := f.generator(machine, name, d)
			if err != nil {
				problems = append(problems, problemAt(f.Place, "", "generator %.100q of machine %s, as the flake has it: %v", name, machine, err))
				continue
			}
			if d.Share {
				shared[name], said[name] = g, alike(d)
			}
			list = append(list, g)
		}
	}
	return list, problems
}

// alike is what must be equal of a shared generator.
func alike(d flakes.Declared) string {
	d.Files = maps.Clone(d.Files)
	for name, f := range d.Files {
		f.Owner, f.Group, f.Mode = "", "", 0
		d.Files[name] = f
	}
	d.Script = flakes.Output{} // By the machine's packages it may be another one.
	text, err := json.Marshal(d)
	if err != nil {
		return err.Error() // It cannot be: it was JSON.
	}
	return string(text)
}

func (f *Flake) generator(machine, name string, d flakes.Declared) (*Generator, error) {
	g := &Generator{
		Generator: &generator.Generator{Kind: scriptKind, Share: d.Share}, Name: name, Machines: []string{machine}, Hash: d.ValidationHash, place: f.Place,
		Script: &Script{Program: d.Script.Path, Build: &d.Script, RerunOnChange: f.RerunOnChange, needs: slices.Sorted(slices.Values(d.Dependencies))},
	}
	for _, p := range slices.Sorted(maps.Keys(d.Prompts)) {
		prompt := d.Prompts[p]
		if err := g.ID(p).Check(); err != nil {
			return nil, fmt.Errorf("its prompt: %w", err)
		}
		g.Prompts = append(g.Prompts, generator.Prompt{Name: p, Description: prompt.Description, Type: generator.PromptType(prompt.Type), Persist: prompt.Persist})
	}
	for _, file := range slices.Sorted(maps.Keys(d.Files)) {
		of := d.Files[file]
		if err := g.ID(file).Check(); err != nil {
			return nil, err //nolint:wrapcheck // It names the file.
		}
		g.Files = append(g.Files, generator.File{
			Name: file, Secret: of.Secret, Deploy: of.Deploy, NeededFor: generator.Phase(of.NeededFor),
			Owner: of.Owner, Group: of.Group, Mode: fs.FileMode(of.Mode), RestartUnits: of.RestartUnits,
		})
	}
	if len(g.Files) == 0 { // It never has what it is to make, or always.
		return nil, fmt.Errorf("%w: it makes no file", vars.ErrName)
	}
	return g, nil
}

// scriptsToBuild are what builds the scripts of generators, each once.
func scriptsToBuild(run []*Generator) (list []flakes.Output) {
	for _, g := range run {
		if g.Script != nil && g.Script.Build != nil && !slices.Contains(list, *g.Script.Build) {
			list = append(list, *g.Script.Build)
		}
	}
	return list
}
