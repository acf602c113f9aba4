package generate

import (
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

// link finds what each generator reads: one of its own machines by that name, else a shared
// one, whichever machines have it.
func (s *Set) link() (problems inventory.Problems) {
	type key struct {
		machine, name string
	}
	byKey := map[key]*Generator{}
	names := map[string]bool{}
	for _, g := range s.all {
		byKey[key{g.Placement().Machine(), g.Name}] = g
		names[g.Name] = true
	}
	for _, g := range s.all {
		for _, name := range g.reads() {
			d := byKey[key{g.Placement().Machine(), name}]
			if d == nil {
				d = byKey[key{"", name}]
			}
			switch {
			case d != nil:
				g.dependencies = append(g.dependencies, d)
				d.dependents = append(d.dependents, g)
			case s.partial:
				g.partial = true
			case names[name] && g.Share:
				problems = append(problems, problemAt(g.place, "share both, or neither", "generator %s is shared, and reads %s, of which each machine has its own", g.Name, name))
			case names[name]:
				problems = append(problems, problemAt(g.place, "declare it for that machine", "generator %s reads %s, which machine %s does not have", g.Name, name, g.Machines[0]))
			default:
				problems = append(problems, problemAt(g.place, "declare it, or name another one in the settings", "generator %s reads the generator %s, which is not declared", g.Name, name))
			}
		}
	}
	if len(problems) > 0 {
		return problems
	}
	if circle := cycle(s.all); circle != nil {
		return inventory.Problems{problemAt(circle[0].place, "take one of them out of the circle", "generators read each other: %s", path(circle))}
	}
	for _, g := range s.all {
		if g.Script != nil {
			for _, d := range g.dependencies {
				for _, f := range d.Files { // All of them, as clan has it.
					g.Reads = append(g.Reads, generator.Read{Generator: d.Name, File: f.Name})
				}
			}
			continue
		}
		for _, d := range g.dependencies {
			for _, r := range g.Reads {
				if _, ok := d.File(r.File); r.Generator == d.Name && !ok {
					problems = append(problems, problemAt(g.place, "name one of another kind in the settings", "generator %s reads the file %s of %s, which is of kind %s and makes none such", g.Name, r.File, d.Name, d.Kind))
				}
			}
		}
	}
	return problems
}

func path(list []*Generator) string {
	names := make([]string, len(list))
	for i, g := range list {
		names[i] = g.Name
	}
	return strings.Join(names, ", which reads ")
}

// cycle returns generators of which each reads the next, from one to itself; nil where
// there are none.
func cycle(all []*Generator) []*Generator {
	const (
		begun = iota + 1
		done
	)
	state := map[*Generator]int{}
	var way, found []*Generator
	var visit func(g *Generator)
	visit = func(g *Generator) {
		if found != nil || state[g] == done {
			return
		}
		way = append(way, g)
		if state[g] == begun {
			found = slices.Clone(way[slices.Index(way, g):])
			return
		}
		state[g] = begun
		for _, d := range g.dependencies {
			visit(d)
		}
		state[g] = done
		way = way[:len(way)-1]
	}
	for _, g := range all {
		visit(g)
	}
	return found
}

// rounds puts generators in the order in which they run: each round needs only those
// before it, or ones that do not run. There is no cycle.
func rounds(run []*Generator) [][]*Generator {
	waiting := slices.SortedFunc(slices.Values(run), compare)
	waits := map[*Generator]bool{}
	for _, g := range waiting {
		waits[g] = true
	}
	var list [][]*Generator
	for len(waiting) > 0 {
		var ready, rest []*Generator
		for _, g := range waiting {
			if slices.ContainsFunc(g.dependencies, func(d *Generator) bool { return waits[d] }) {
				rest = append(rest, g)
			} else {
				ready = append(ready, g)
			}
		}
		for _, g := range ready {
			delete(waits, g)
		}
		list, waiting = append(list, ready), rest
	}
	return list
}
