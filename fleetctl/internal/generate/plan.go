package generate

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// ErrUnknown is wrapped by errors about names that the fleet file does not declare.
var ErrUnknown = errors.New("not declared")

// Request says what to look at.
type Request struct {
	// Machines whose generators; none means all.
	Machines []string
	// Generator is the only one by its name; empty for all.
	Generator string
	// Chosen are the generators themselves, whatever else is said; they run even if they
	// lack nothing. Nil where they are not known.
	Chosen []*Generator
	// Regenerate makes values anew that are there, and asks again.
	Regenerate bool
}

// Choose returns the generators that a request is about, in order.
func (s *Set) Choose(r Request) ([]*Generator, error) {
	if r.Chosen != nil {
		return slices.Clone(r.Chosen), nil
	}
	for _, m := range r.Machines {
		if !slices.Contains(s.machines, m) {
			return nil, ui.WithHint(fmt.Errorf("machine %s is %w", m, ErrUnknown), "fleetctl inventory show lists the machines")
		}
	}
	var list []*Generator
	elsewhere := false
	for _, g := range s.all {
		of := len(r.Machines) == 0 || slices.ContainsFunc(r.Machines, func(m string) bool { return slices.Contains(g.Machines, m) })
		named := r.Generator == "" || g.Name == r.Generator
		if of && named {
			list = append(list, g)
		}
		elsewhere = elsewhere || named
	}
	switch {
	case len(list) > 0 || r.Generator == "":
		return list, nil
	case elsewhere:
		return nil, ui.WithHint(fmt.Errorf("generator %s is %w for %s", r.Generator, ErrUnknown, strings.Join(r.Machines, ", ")), "name a machine that has it, or none")
	}
	return nil, ui.WithHint(fmt.Errorf("generator %s is %w", r.Generator, ErrUnknown), "vars.generators of fleet.yaml has the names")
}

// asksAgain says whether a request has answers of a generator asked for again that are kept:
// not of one that only reads what is made anew.
func (r Request) asksAgain(g *Generator) bool {
	return r.Regenerate && (r.Generator == "" || g.Name == r.Generator) && (r.Chosen == nil || slices.Contains(r.Chosen, g))
}

// Typed says that the values are what somebody types, and nothing makes them.
func (g *Generator) Typed() bool {
	for _, f := range g.Files {
		if !slices.ContainsFunc(g.Prompts, func(p generator.Prompt) bool { return p.Persist && p.Name == f.Name }) {
			return false
		}
	}
	return true
}

// Making returns the generator that makes an entry's value; nil where none is declared.
func (s *Set) Making(entry string) *Generator {
	for _, g := range s.all {
		for _, f := range g.Files {
			if g.ID(f.Name).Path() == entry {
				return g
			}
		}
	}
	return nil
}

// Names returns the names of the generators of a placement.
func (s *Set) Names(p vars.Placement) (names []string) {
	for _, g := range s.all {
		if g.Placement() == p {
			names = append(names, g.Name)
		}
	}
	return names
}

// Lack is what a generator lacks.
type Lack struct {
	// Files that are not there, or are kept as the other kind of value.
	Files []generator.File
	// Stale says that the values are of another declaration.
	Stale bool
	// Changed says that it is so by another script, or by what that reads.
	Changed bool
}

// None says that nothing is lacking.
func (l Lack) None() bool { return len(l.Files) == 0 && !l.Stale }

// LackOf looks what of a generator is missing in a tree.
func LackOf(t *vars.Tree, g *Generator) Lack {
	var l Lack
	for _, f := range g.Files {
		e, err := t.Entry(g.ID(f.Name).Path())
		if err != nil || e.Secret != f.Secret || e.Public == f.Secret {
			l.Files = append(l.Files, f)
		}
	}
	l.Changed = g.changed(t)
	l.Stale = l.Changed || t.ValidationHash(g.Placement(), g.Name) != g.Hash
	return l
}

// Plan returns the generators that a request has run, in rounds. Those are: of the chosen
// ones that lack something, or all of them where one is named or all are made anew; what
// they read and is missing; and whatever reads one of these, on any machine, since it was
// made of a value that is no more.
func (s *Set) Plan(t *vars.Tree, r Request) ([][]*Generator, error) {
	chosen, err := s.Choose(r)
	if err != nil {
		return nil, err
	}
	run := map[*Generator]bool{}
	var list []*Generator
	var add func(g *Generator)
	add = func(g *Generator) {
		if run[g] {
			return
		}
		run[g] = true
		list = append(list, g)
		for _, d := range g.dependencies {
			if !LackOf(t, d).None() {
				add(d)
			}
		}
		for _, d := range g.dependents {
			add(d)
		}
	}
	for _, g := range chosen {
		if r.Generator != "" || r.Chosen != nil || r.Regenerate || !LackOf(t, g).None() {
			add(g)
		}
	}
	return rounds(list), nil
}

// Access says who is to read a file of a generator.
func (s *Set) Access(g *Generator, file string) vars.Access {
	f, _ := g.File(file)
	return s.access(g, f)
}

// access says who is to read a file.
func (s *Set) access(g *Generator, f generator.File) vars.Access {
	a := vars.Access{Groups: s.Groups, Undeployed: !f.Deploy}
	if f.Deploy {
		a.Machines = g.Machines
	}
	return a
}

// Finding is something that is wrong with the values of a generator.
type Finding struct {
	Generator *Generator
	// File is empty for what is about all of them.
	File string
	// Kind is missing, stale or readers.
	Kind FindingKind
	Err  error
}

// FindingKind says what kind of thing is wrong.
type FindingKind string

// The kinds of findings.
const (
	// Missing is a value that is not there: generate makes it.
	Missing FindingKind = "missing"
	// Stale are values of another declaration: generate makes them anew.
	Stale FindingKind = "stale"
	// Readers are recipients that are not those who are meant to read: fix mends it.
	Readers FindingKind = "readers"
)

// Check returns all that is wrong with generators, in their order.
func (s *Set) Check(t *vars.Tree, generators []*Generator) []Finding {
	var found []Finding
	for _, g := range generators {
		lack := LackOf(t, g)
		for _, f := range lack.Files {
			word := "public"
			if f.Secret {
				word = "secret"
			}
			found = append(found, Finding{g, f.Name, Missing, fmt.Errorf("the %s value is missing", word)})
		}
		if lack.Stale && len(lack.Files) < len(g.Files) {
			err := errors.New("its declaration has changed since it ran")
			if lack.Changed {
				err = errors.New("its script, or what that reads, has changed since it ran")
			}
			found = append(found, Finding{g, "", Stale, err})
		}
		found = append(found, s.readers(t, g)...)
	}
	return found
}

// readers finds secrets whose recipients are not those that are wanted.
func (s *Set) readers(t *vars.Tree, g *Generator) (found []Finding) {
	groups := make([]vars.Reader, 0, len(s.Groups))
	for _, name := range s.Groups {
		groups = append(groups, vars.Reader{Kind: vars.Groups, Name: name})
	}
	for _, f := range g.Files {
		path := g.ID(f.Name).Path()
		e, err := t.Entry(path)
		if err != nil || !f.Secret || !e.Secret {
			continue
		}
		problems, err := t.CheckEntry(path, groups)
		if err != nil {
			found = append(found, Finding{g, f.Name, Readers, err})
		}
		for _, p := range problems {
			found = append(found, Finding{g, f.Name, Readers, p.Err})
		}
		for _, m := range s.unlinked(e, g, f) {
			found = append(found, Finding{g, f.Name, Readers, fmt.Errorf("machine %s is to read it, and is no reader", m)})
		}
		for _, r := range e.Links {
			if r.Kind == vars.Machines && !f.Deploy {
				found = append(found, Finding{g, f.Name, Readers, fmt.Errorf("%s reads it, and no machine is to", r)})
			}
		}
	}
	return found
}

// unlinked are the machines that are to read a file and are not linked.
func (s *Set) unlinked(e vars.Entry, g *Generator, f generator.File) (machines []string) {
	for _, m := range s.access(g, f).Machines {
		if !slices.Contains(e.Links, vars.Reader{Kind: vars.Machines, Name: m}) {
			machines = append(machines, m)
		}
	}
	return machines
}
