package generate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// ErrReaders is wrapped where a secret has other readers than those that are meant.
var ErrReaders = errors.New("readers are not those who are meant to read")

// Question is what a generator asks a person.
type Question struct {
	// Generator that asks, the placement included: machines may have different answers.
	Generator *Generator
	Prompt    generator.Prompt
}

func (q Question) String() string {
	return fmt.Sprintf("%s of %s", q.Prompt.Name, q.Generator)
}

// Runner runs generators in a change. It writes nothing but to the change, and to that only
// once all have run: who gives the change up has the tree as it was.
type Runner struct {
	Change *vars.Change
	Set    *Set
	// Random must be cryptographically secure.
	Random io.Reader
	// Now is the wall time, for what expires.
	Now func() time.Time
	// Ask has the questions answered, in their order, before anything runs. The answers are
	// cleared after use.
	Ask func(context.Context, []Question) ([]generator.Value, error)
	// Sandbox opens where scripts run; it is asked for once, before any question, and only
	// where there are scripts to run. Who closes it is the runner.
	Sandbox func(context.Context) (Sandbox, error)
	// Build builds scripts that a flake declares, before any question; it may be nil where
	// no flake declares any.
	Build func(context.Context, []flakes.Output) error
	// Began is told of each generator that begins; from any goroutine, one at a time. It
	// may be nil.
	Began func(g *Generator, n, of int)
}

// Run does what a request says, and returns the generators that ran, in order. Before
// that it refuses secrets of the chosen generators that others can read than those who are
// meant: they would be read, or given to more machines, without anybody having looked.
func (r *Runner) Run(ctx context.Context, req Request) ([]*Generator, error) {
	tree := r.Change.Tree()
	chosen, err := r.Set.Choose(req)
	if err != nil {
		return nil, err
	}
	plan, err := r.Set.Plan(tree, req)
	if err != nil {
		return nil, err
	}
	run := slices.Concat(plan...)
	if err := r.healthy(tree, append(slices.Clone(chosen), inputsOf(run)...)); err != nil {
		return nil, err
	}
	box, err := r.sandbox(ctx, run)
	if err != nil {
		return nil, err
	}
	defer box.Close() //nolint:errcheck // What it leaves in memory the next run removes.
	answers, err := r.answers(ctx, tree, run, req)
	defer func() {
		for _, a := range answers {
			generator.Files(a).Clear()
		}
	}()
	if err != nil {
		return nil, err
	}
	made := map[*Generator]generator.Files{}
	defer func() {
		for _, f := range made {
			f.Clear()
		}
	}()
	if err := r.make(ctx, box, plan, answers, made); err != nil {
		return nil, err
	}
	for _, g := range run {
		if err := check(g, made[g]); err != nil {
			return nil, err
		}
	}
	for _, g := range run {
		if err := r.store(tree, g, made[g]); err != nil {
			return nil, err
		}
	}
	for _, g := range run { // When all that they read is as it will be.
		if err := r.keepScript(g); err != nil {
			return nil, err
		}
	}
	return run, r.admit(tree, chosen, run)
}

// inputsOf are what generators read.
func inputsOf(run []*Generator) []*Generator {
	var list []*Generator
	for _, g := range run {
		list = append(list, g.dependencies...)
	}
	return list
}

// healthy refuses secrets of generators that are encrypted to others than their readers.
// Machines that are to become readers are none of it.
func (r *Runner) healthy(t *vars.Tree, generators []*Generator) error {
	var errs []error
	seen := map[*Generator]bool{}
	for _, g := range generators {
		if seen[g] {
			continue
		}
		seen[g] = true
		for _, f := range g.Files {
			path := g.ID(f.Name).Path()
			e, err := t.Entry(path)
			if err != nil || !e.Secret {
				continue
			}
			problems, err := t.CheckEntry(path, nil)
			if err != nil {
				return err
			}
			for _, p := range problems {
				errs = append(errs, p)
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return ui.WithHint(fmt.Errorf("%w:\n%w", ErrReaders, errors.Join(errs...)),
		"find out who changed it; fleetctl vars fix encrypts to just those who are linked")
}

// answers asks what the generators ask. A persisted answer that is there is used again,
// unless all is made anew.
func (r *Runner) answers(ctx context.Context, t *vars.Tree, run []*Generator, req Request) (map[*Generator]map[string]generator.Value, error) {
	all := map[*Generator]map[string]generator.Value{}
	var questions []Question
	for _, g := range run {
		all[g] = map[string]generator.Value{}
		for _, p := range g.Prompts {
			f, ok := g.File(p.Name)
			if !req.asksAgain(g) && p.Persist && ok {
				if e, err := t.Entry(g.ID(p.Name).Path()); err == nil && (e.Secret && f.Secret || e.Public && !f.Secret) {
					value, err := r.read(g, f)
					if err != nil {
						return all, err
					}
					all[g][p.Name] = value
					continue
				}
			}
			questions = append(questions, Question{g, p})
		}
	}
	if len(questions) == 0 {
		return all, nil
	}
	values, err := r.Ask(ctx, questions)
	for i, v := range values {
		all[questions[i].Generator][questions[i].Prompt.Name] = v
	}
	if err == nil && len(values) != len(questions) {
		err = fmt.Errorf("%d answers to %d questions", len(values), len(questions))
	}
	return all, err
}

func (r *Runner) read(g *Generator, f generator.File) (generator.Value, error) {
	var value []byte
	var err error
	if f.Secret {
		value, err = r.Change.Read(g.ID(f.Name).Path())
	} else {
		value, err = r.Change.Value(g.ID(f.Name).Path())
	}
	if err != nil {
		return generator.Value{}, fmt.Errorf("reading what %s made: %w", g, err)
	}
	return generator.NewValue(value), nil
}

// make runs the generators of each round at once. What they read of ones that do not run is
// read before, since a change is for one goroutine.
func (r *Runner) make(ctx context.Context, box Sandbox, plan [][]*Generator, answers map[*Generator]map[string]generator.Value, made map[*Generator]generator.Files) error {
	of, began := len(slices.Concat(plan...)), 0
	random := &oneAtATime{from: r.Random}
	for _, round := range plan {
		inputs := make([]generator.Inputs, len(round))
		for i, g := range round {
			deps, read, err := r.inputs(g, made)
			defer read.Clear()
			if err != nil {
				return err
			}
			inputs[i] = generator.Inputs{Prompts: answers[g], Dependencies: deps, Now: r.Now()}
		}
		var mu sync.Mutex
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(runtime.NumCPU())
		for i, g := range round {
			group.Go(func() error {
				mu.Lock()
				began++
				if r.Began != nil {
					r.Began(g, began, of)
				}
				mu.Unlock()
				files, err := g.generate(ctx, box, random, inputs[i])
				if err != nil {
					return fmt.Errorf("%s: %w", g, err)
				}
				mu.Lock()
				defer mu.Unlock()
				made[g] = files
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// inputs are the files that a generator reads: what this run made, else what the tree has.
// The latter are returned once more, for the caller to clear.
func (r *Runner) inputs(g *Generator, made map[*Generator]generator.Files) (map[string]generator.Files, generator.Files, error) {
	deps, read := map[string]generator.Files{}, generator.Files{}
	for _, d := range g.dependencies {
		deps[d.Name] = generator.Files{}
		for _, want := range g.Reads {
			if want.Generator != d.Name {
				continue
			}
			if files, ok := made[d]; ok {
				deps[d.Name][want.File] = files[want.File]
				continue
			}
			f, _ := d.File(want.File)
			value, err := r.read(d, f)
			if err != nil {
				return nil, read, fmt.Errorf("%s: %w", g, err)
			}
			deps[d.Name][want.File], read[d.ID(want.File).Path()] = value, value
		}
	}
	return deps, read, nil
}

// oneAtATime lets several goroutines read.
type oneAtATime struct {
	mu   sync.Mutex
	from io.Reader
}

func (o *oneAtATime) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.from.Read(p)
}

// check refuses a run that did not make just the files that it declares.
func check(g *Generator, files generator.Files) error {
	var missing []string
	for _, f := range g.Files {
		value, ok := files[f.Name]
		switch {
		case !ok:
			missing = append(missing, f.Name)
		case len(value.Bytes()) > sops.MaxValue:
			return fmt.Errorf("%s: the file %s has %d bytes: at most %d can be kept", g, f.Name, len(value.Bytes()), sops.MaxValue)
		}
	}
	if len(missing) > 0 || len(files) != len(g.Files) {
		return fmt.Errorf("%s: it made %d files, %d are declared; missing are %q", g, len(files), len(g.Files), missing)
	}
	return nil
}

// store sets what a generator made, and removes what it left where it was kept before it
// became shared, or ceased to be.
func (r *Runner) store(t *vars.Tree, g *Generator, files generator.Files) error {
	for _, f := range g.Files {
		var err error
		if f.Secret {
			err = r.Change.PutSecret(g.ID(f.Name).Path(), files[f.Name].Bytes(), r.Set.access(g, f))
		} else {
			err = r.Change.PutPublic(g.ID(f.Name), files[f.Name].Bytes())
		}
		if err != nil {
			return fmt.Errorf("keeping what %s made: %w", g, err)
		}
	}
	if err := r.Change.SetValidationHash(g.Placement(), g.Name, g.Hash); err != nil {
		return fmt.Errorf("keeping the validation of %s: %w", g, err)
	}
	before := []vars.Placement{vars.Shared()}
	if g.Share {
		before = nil
		for _, m := range g.Machines {
			before = append(before, vars.PerMachine(m))
		}
	}
	for _, p := range before {
		if !g.Share && r.Set.shares(g.Name) {
			continue // It is another one's.
		}
		for _, f := range g.Files {
			id := vars.ID{Placement: p, Generator: g.Name, File: f.Name}
			if err := r.Change.Delete(id.Path()); err != nil && !errors.Is(err, vars.ErrNotFound) {
				return fmt.Errorf("removing what %s made where it was kept before: %w", g, err)
			}
		}
		err := errors.Join(r.Change.SetValidationHash(p, g.Name, ""), r.Change.SetScriptHash(p, g.Name, ""))
		if err != nil {
			return fmt.Errorf("removing what %s made where it was kept before: %w", g, err)
		}
	}
	return nil
}

// shares says whether machines share a generator of the name.
func (s *Set) shares(name string) bool {
	return slices.ContainsFunc(s.all, func(g *Generator) bool { return g.Share && g.Name == name })
}

// admit lets machines read shared secrets that they came to have since these were made.
func (r *Runner) admit(t *vars.Tree, chosen, run []*Generator) error {
	for _, g := range chosen {
		if !g.Share || slices.Contains(run, g) {
			continue
		}
		for _, f := range g.Files {
			path := g.ID(f.Name).Path()
			e, err := t.Entry(path)
			if err != nil || !e.Secret {
				continue
			}
			if added := r.Set.unlinked(e, g, f); len(added) > 0 {
				if err := r.Change.Fix(path, r.Set.access(g, f)); err != nil {
					return fmt.Errorf("letting %s read it: %w", strings.Join(added, ", "), err)
				}
			}
		}
	}
	return nil
}

// Fix makes the readers of the secrets of generators those who are meant, and returns the
// paths of those that changed. What cannot be opened is an error, all of them at once.
func (s *Set) Fix(c *vars.Change, generators []*Generator) ([]string, error) {
	var changed []string
	var errs []error
	t := c.Tree()
	for _, g := range generators {
		wrong := map[string]bool{}
		for _, f := range s.readers(t, g) {
			wrong[f.File] = true
		}
		for _, f := range g.Files {
			if path := g.ID(f.Name).Path(); wrong[f.Name] {
				if err := c.Fix(path, s.access(g, f)); err != nil {
					errs = append(errs, err)
					continue
				}
				changed = append(changed, path)
			}
		}
	}
	return changed, errors.Join(errs...)
}
