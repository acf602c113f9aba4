// Package generate makes the values that a fleet file declares: which generators there are
// for which machines, which of them have something missing, in which order they run, and
// what becomes of what they made. Keys, links and files are pkg/vars' business, the making
// of a value is pkg/generator's.
package generate

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// Generator is one of one machine, or one that machines share.
type Generator struct {
	*generator.Generator

	Name string
	// Machines that have it, sorted; of one that is not shared, its own.
	Machines []string
	// Hash is what its validation comes to, "" where it has none. A tree with another one
	// has values of another declaration.
	Hash string
	// Script is what makes the files; nil where a kind that is built in does.
	Script *Script

	place inventory.Place
	// partial says that it reads some that are not known here.
	partial bool
	// dependencies are those that it reads, sorted.
	dependencies []*Generator
	// dependents are those that read it, sorted.
	dependents []*Generator
}

// Placement is where its files are.
func (g *Generator) Placement() vars.Placement {
	if g.Share {
		return vars.Shared()
	}
	return vars.PerMachine(g.Machines[0])
}

// ID names one of its files.
func (g *Generator) ID(file string) vars.ID {
	return vars.ID{Placement: g.Placement(), Generator: g.Name, File: file}
}

// File returns one of its files by name.
func (g *Generator) File(name string) (generator.File, bool) {
	i := slices.IndexFunc(g.Files, func(f generator.File) bool { return f.Name == name })
	if i < 0 {
		return generator.File{}, false
	}
	return g.Files[i], true
}

// OfFlake says that the flake declares it: its values are part of the system that a
// machine runs, and of no manifest.
func (g *Generator) OfFlake() bool { return g.Script != nil && g.Script.Build != nil }

// String is its directory below vars/.
func (g *Generator) String() string { return g.ID("").RelDir() }

func compare(a, b *Generator) int {
	return cmp.Or(strings.Compare(a.Placement().Machine(), b.Placement().Machine()), strings.Compare(a.Name, b.Name))
}

// Set is all generators of a fleet. It does not change.
type Set struct {
	// Groups read every secret.
	Groups []string

	// all are sorted: shared ones first, then by machine; by name.
	all      []*Generator
	machines []string
	// partial says that a flake declares more, which is not known here.
	partial bool
}

// All returns all generators, shared ones first, then by machine; by name.
func (s *Set) All() []*Generator { return slices.Clone(s.all) }

// Of returns the generators that a machine has, shared ones among them.
func (s *Set) Of(machine string) []*Generator {
	var list []*Generator
	for _, g := range s.all {
		if slices.Contains(g.Machines, machine) {
			list = append(list, g)
		}
	}
	return list
}

// Resolve reads the declarations of a fleet file. What is wrong with them is returned as
// [inventory.Problems], all at once. flake are those of its flake; nil where it names none,
// or they are not of interest.
func Resolve(f *inventory.Fleet, flake *Flake) (*Set, error) {
	declared := f.Vars()
	s := &Set{Groups: declared.Groups, partial: flake == nil && declared.Flake != nil}
	for _, m := range f.Machines() {
		s.machines = append(s.machines, string(m.Name))
	}
	var problems inventory.Problems
	for _, d := range declared.Generators {
		list, problem := expand(d)
		if problem != nil {
			problems = append(problems, problem)
			continue
		}
		s.all = append(s.all, list...)
	}
	if flake != nil {
		list, more := flake.generators()
		s.all, problems = append(s.all, list...), append(problems, more...)
	}
	slices.SortStableFunc(s.all, compare)
	problems = append(problems, s.twice()...)
	if len(problems) == 0 {
		problems = s.link()
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return s, nil
}

func problemAt(at inventory.Place, hint, format string, args ...any) *inventory.Problem {
	return &inventory.Problem{Place: at, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// expand makes the generators of a declaration: one that machines share, or one for each.
func expand(d inventory.Generator) ([]*Generator, *inventory.Problem) {
	if d.Share && !strings.Contains(d.Name, inventory.MachineWord) {
		g, problem := one(d, "", d.Machines)
		if problem != nil {
			return nil, problem
		}
		return []*Generator{g}, nil
	}
	var list []*Generator
	for _, m := range d.Machines {
		g, problem := one(d, string(m), []fleet.MachineName{m})
		if problem != nil {
			return nil, problem // The others would have the same.
		}
		list = append(list, g)
	}
	return list, nil
}

func one(d inventory.Generator, machine string, machines []fleet.MachineName) (*Generator, *inventory.Problem) {
	g := &Generator{Name: strings.ReplaceAll(d.Name, inventory.MachineWord, machine), place: d.Place}
	settings := bytes.ReplaceAll(d.Settings, []byte(inventory.MachineWord), []byte(machine))
	for _, m := range machines {
		g.Machines = append(g.Machines, string(m))
	}
	if d.Share {
		machine = ""
	}
	if len(g.Name) > 128 {
		return nil, problemAt(d.Place, "give it a shorter one", "%s is no name of a generator", g.Name)
	}
	if d.Script != "" {
		return scripted(g, d, machine)
	}
	var err error
	if g.Generator, err = generator.New(d.Kind, machine, settings); err != nil {
		hint := `see "` + d.Kind + `" in docs/generators.md`
		if errors.Is(err, generator.ErrUnknownKind) {
			hint = "docs/generators.md describes each"
		}
		return nil, problemAt(d.Place, hint, "generator %s: %v", d.Name, err)
	}
	return completed(g, d)
}

// completed is a generator, whoever makes its files, with what else is declared of it.
func completed(g *Generator, d inventory.Generator) (*Generator, *inventory.Problem) {
	var err error
	if g.Hash, err = validationHash(g.Validation); err != nil {
		return nil, problemAt(d.Place, "", "generator %s: %v", d.Name, err)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		if problem := override(g, name, d.Files[name]); problem != nil {
			return nil, problem
		}
	}
	return g, nil
}

// override lets a declaration say otherwise than the kind.
func override(g *Generator, name string, o inventory.GeneratedFile) *inventory.Problem {
	i := slices.IndexFunc(g.Files, func(f generator.File) bool { return f.Name == name })
	if i < 0 {
		var names []string
		for _, f := range g.Files {
			names = append(names, f.Name)
		}
		return problemAt(o.Place, "it makes "+strings.Join(names, ", "), "generator %s makes no file %s", g.Name, name)
	}
	f := &g.Files[i]
	if o.Secret != nil && g.Script == nil {
		return problemAt(o.Place, "leave secret out", "generator %s: its kind says which of its files are secret", g.Name)
	}
	if !f.Secret && (o.NeededFor != "" || o.Owner != "" || o.Group != "" || o.Mode != nil || o.RestartUnits != nil) {
		return problemAt(o.Place, "leave all out but deploy", "the file %s of generator %s is public: no host installs it with an owner, mode or phase", name, g.Name)
	}
	if o.Deploy != nil {
		f.Deploy = *o.Deploy
	}
	f.NeededFor = cmp.Or(generator.Phase(o.NeededFor), f.NeededFor)
	f.Owner, f.Group = cmp.Or(o.Owner, f.Owner), cmp.Or(o.Group, f.Group)
	if o.Mode != nil {
		f.Mode = fs.FileMode(*o.Mode)
	}
	if o.RestartUnits != nil {
		f.RestartUnits = slices.Clone(o.RestartUnits)
	}
	return nil
}

// twice refuses two declarations that come to one name for one machine: which of them a
// dependency means would be chance.
func (s *Set) twice() (problems inventory.Problems) {
	type key struct{ machine, name string }
	seen := map[key]*Generator{}
	sharedNames := map[string]*Generator{}
	for _, g := range s.all {
		other := (*Generator)(nil)
		if g.Share {
			other, sharedNames[g.Name] = sharedNames[g.Name], g
		}
		for _, m := range g.Machines {
			k := key{m, g.Name}
			other = cmp.Or(other, seen[k])
			seen[k] = g
		}
		if other != nil {
			problems = append(problems, problemAt(g.place, "give one of them another name", "generator %s is declared at %s, too, for the same machine", g.Name, other.place))
		}
	}
	return problems
}
