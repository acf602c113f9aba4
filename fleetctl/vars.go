package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/gitrepo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

const varsHelp = `Generate, read and set the keys, passwords and certificates of the fleet. They are
in vars/ and sops/ of the repository, as clan keeps them: secrets are documents of
sops that you, and the machines that need them, can open with age keys.

fleet.yaml declares what there is, below vars.generators, or names a flake of clan that
does, below vars.flake: see docs/inventory.md, and docs/generators.md for the kinds. A value is named MACHINE GENERATOR/FILE, also where
machines share it.

Who changes something holds the lock of both trees, and makes one commit of git, of
what it changed and nothing else: all of the change, or none. It refuses to begin
where something in vars/ or sops/ is not committed yet. Outside of a working tree of
git, or with --no-commit, nothing is committed.

Values never stand in arguments, errors or logs. To begin, make yourself a key:

  fleetctl vars keygen
  fleetctl vars generate`

func newVarsCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "vars",
		Aliases: []string{"va"},
		Short:   "Generate, read and set keys, passwords and certificates",
		Long:    varsHelp,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newVarsGenerateCommand(o), newVarsRotateCommand(o), newVarsListCommand(o), newVarsGetCommand(o), newVarsSetCommand(o),
		newVarsCheckCommand(o), newVarsFixCommand(o), newVarsKeygenCommand(o), newVarsReaderCommand(o), newVarsExportCommand(o), newVarsImportCommand(o), newVarsMigrateCommand(o),
	)
	explainIn(cmd)
	return cmd
}

// explainIn gives errors of a command, and of those below it, the hints that packages
// about values don't know.
func explainIn(c *cobra.Command) {
	if do := c.RunE; do != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error { return explainValues(do(cmd, args)) }
	}
	for _, sub := range c.Commands() {
		explainIn(sub)
	}
}

func explainValues(err error) error {
	switch {
	case err == nil || ui.HintOf(err) != "":
		return err
	case errors.Is(err, sops.ErrNoIdentity):
		return ui.WithHint(err, "who can read it runs fleetctl vars reader add or secrets groups add-user; vars fix where your keys changed")
	case errors.Is(err, inventory.ErrUnknown):
		return ui.WithHint(err, "fleetctl inventory show lists the machines")
	case errors.Is(err, vars.ErrNotFound):
		return ui.WithHint(err, "users come to be by fleetctl vars keygen, groups by fleetctl secrets groups add-user, machines by vars generate")
	case errors.Is(err, vars.ErrLink):
		return ui.WithHint(err, "who can write a link chooses who reads: find out where it comes from")
	}
	return err
}

// The trees that commands about values change.
const (
	varsTree = "vars"
	sopsTree = "sops"
)

// lockWait is how long somebody else's change of the trees is waited for.
const lockWait = 5 * time.Second

// varsOptions are those of all commands that change values.
type varsOptions struct {
	NoCommit bool
}

func (v *varsOptions) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&v.NoCommit, "no-commit", false, "leave the changes to you to commit")
}

// values is the repository with its declarations and values.
type values struct {
	*workspace
	set *generate.Set
}

// values reads the declarations, those of the flake that fleet.yaml names among them,
// which takes an evaluation by nix.
func (o *options) values(ctx context.Context) (*values, error) {
	w, err := o.open()
	if err != nil {
		return nil, err
	}
	flake, err := o.flakeGenerators(ctx, w)
	if err != nil {
		return nil, err
	}
	return w.values(flake)
}

// declaredHere is values without what the flake declares.
func (o *options) declaredHere() (*values, error) {
	w, err := o.open()
	if err != nil {
		return nil, err
	}
	return w.values(nil)
}

func (w *workspace) values(flake *generate.Flake) (*values, error) {
	set, err := generate.Resolve(w.fleet, flake)
	if err != nil {
		return nil, ui.WithHint(err, "fleetctl inventory check names everything that is wrong")
	}
	return &values{w, set}, nil
}

// flakeGenerators are those of the flake that the fleet file names; nil where it names none.
func (o *options) flakeGenerators(ctx context.Context, w *workspace) (*generate.Flake, error) {
	f := w.fleet.Vars().Flake
	if f == nil {
		return nil, nil
	}
	var machines []string
	for _, m := range w.fleet.Machines() {
		machines = append(machines, string(m.Name))
	}
	progress := ui.NewProgress(o.Stderr, ui.IsTerminal(o.Stderr, o.Getenv), o.Now)
	defer progress.Done()
	progress.Status("evaluating the generators of the flake…")
	all, err := o.nixFor(progress).Generators(ctx, f.URL, runtime.GOOS, runtime.GOARCH, machines)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the flake.
	}
	return &generate.Flake{Place: f.Place, RerunOnChange: f.RerunOnChange, Machines: all}, nil
}

// nixFor is the nix program, which tells of its progress.
func (o *options) nixFor(progress *ui.Progress) *flakes.Nix {
	return &flakes.Nix{Program: o.Getenv("FLEET_NIX"), Progress: func(line string) { progress.Status("nix: " + clipText(line)) }}
}

// tree reads the trees; nobody is kept from changing them.
func (v *values) tree() (*vars.Tree, error) {
	t, err := vars.Open(v.Dir())
	if err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	return t, nil
}

// identities are the person's keys, as documents of sops want them.
func (o *options) identities() ([]sops.Identity, sops.Plugins, error) {
	k, err := keyring.Load(keyring.Places{
		Explicit: o.Identity, Getenv: o.Getenv,
		Notify: func(text string) { _, _ = fmt.Fprintln(o.Stderr, text) },
	})
	if errors.Is(err, keyring.ErrNoIdentity) {
		return nil, nil, ui.WithHint(err, "make a key with fleetctl vars keygen, or name the file of yours with --identity")
	}
	if err != nil {
		return nil, nil, err
	}
	return k.Sops()
}

// valueChange is a change of values, and where it is committed.
type valueChange struct {
	*vars.Change
	o   *options
	git *gitrepo.Repository
	// beside are files of the repository that were written for it, and are committed with it.
	beside []string
}

// change begins a change of the values. The caller closes it.
func (v *values) change(ctx context.Context, o *options, opts *varsOptions, ids []sops.Identity, plugins sops.Plugins) (*valueChange, error) {
	waiting, stop := context.WithTimeout(ctx, lockWait)
	defer stop()
	c, err := vars.Begin(waiting, v.Dir(), vars.Options{Identities: ids, Plugins: plugins, Now: o.Now})
	if errors.Is(err, vars.ErrLocked) && ctx.Err() == nil {
		err = ui.WithHint(err, "run this again then")
	}
	if err != nil {
		return nil, err
	}
	change := &valueChange{Change: c, o: o}
	if !opts.NoCommit {
		// After Begin: what an interrupted run left is ended now, and seen.
		if change.git, err = gitrepo.Find(ctx, v.Dir()); err == nil && change.git != nil {
			err = change.git.Ready(ctx, varsTree, sopsTree)
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return change, nil
}

// changeValues begins a change with the person's keys.
func (o *options) changeValues(ctx context.Context, opts *varsOptions) (*values, *valueChange, error) {
	v, err := o.values(ctx)
	if err != nil {
		return nil, nil, err
	}
	ids, plugins, err := o.identities()
	if err != nil {
		return nil, nil, err
	}
	c, err := v.change(ctx, o, opts, ids, plugins)
	return v, c, err
}

// written is what a change came to, in JSON too.
type written struct {
	// Changed are paths, relative to the repository.
	Changed   []string `json:"changed"`
	Committed bool     `json:"committed"`
}

// keep makes the change and commits it.
func (c *valueChange) keep(ctx context.Context, message string) (written, error) {
	paths, err := c.Commit()
	if err == nil {
		paths = append(paths, c.beside...)
	}
	done := written{Changed: append([]string{}, paths...)}
	if err != nil || len(paths) == 0 || c.git == nil {
		return done, err
	}
	// Not by a signal in the last moment: then git would have half of it.
	err = c.git.Commit(context.WithoutCancel(ctx), message, paths)
	done.Committed = err == nil
	return done, err
}

// say tells a person what became of the change.
func (w written) say(o *options, opts *varsOptions) {
	switch {
	case len(w.Changed) == 0:
	case w.Committed:
		_, _ = fmt.Fprintf(o.Stderr, "Committed %s.\n", counted(len(w.Changed), "file"))
	case opts.NoCommit:
		_, _ = fmt.Fprintf(o.Stderr, "Changed %s; commit vars/, sops/ and secrets/.\n", counted(len(w.Changed), "file"))
	default:
		_, _ = fmt.Fprintf(o.Stderr, "Changed %s; this is no working tree of git, so nothing is committed.\n", counted(len(w.Changed), "file"))
	}
}

// value is a file of a generator of a machine.
type value struct {
	vars.ID
	// Generator is nil for one that the fleet file does not declare.
	Generator *generate.Generator
	Secret    bool
	// Exists says that there is a value of that kind.
	Exists bool
	Path   string
}

// name is GENERATOR/FILE.
func (v value) name() string { return path.Join(v.ID.Generator, v.File) }

// valuesOf returns what a machine has, by name: what is declared, and what is in the tree
// for it besides.
func (v *values) valuesOf(t *vars.Tree, machine string) ([]value, error) {
	m, err := v.machine(machine)
	if err != nil {
		return nil, err
	}
	var list []value
	seen := map[string]bool{}
	for _, g := range v.set.Of(string(m.Name)) {
		for _, f := range g.Files {
			id := g.ID(f.Name)
			e, err := t.Entry(id.Path())
			exists := err == nil && e.Secret == f.Secret && e.Public != f.Secret
			list = append(list, value{id, g, f.Secret, exists, id.Path()})
			seen[id.Path()] = true
		}
	}
	for _, e := range t.Entries() {
		of := e.ID.Placement.Machine() == string(m.Name)
		for _, r := range e.Links {
			of = of || e.ID.Placement.Shared() && r == vars.Reader{Kind: vars.Machines, Name: string(m.Name)}
		}
		if of && !seen[e.Path] && (e.Secret || e.Public) {
			list = append(list, value{e.ID, nil, e.Secret, true, e.Path})
		}
	}
	return list, nil
}

// valueOf finds a value of a machine by GENERATOR/FILE.
func (v *values) valueOf(t *vars.Tree, machine, name string) (value, error) {
	list, err := v.valuesOf(t, machine)
	if err != nil {
		return value{}, err
	}
	var near []string
	for _, f := range list {
		if f.name() == name {
			return f, nil
		}
		if strings.HasPrefix(f.name(), name) {
			near = append(near, f.name())
		}
	}
	hint := "fleetctl vars list " + machine + " has the names"
	if len(near) == 1 {
		hint = fmt.Sprintf("did you mean %s?", near[0])
	}
	return value{}, ui.WithHint(fmt.Errorf("machine %s has no value %.200q", machine, name), hint)
}

// completeValues offers machines, and then their values.
func (o *options) completeValues(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return o.completeMachines(1)(nil, args, "")
	}
	v, err := o.declaredHere()
	if err != nil || len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	t, err := v.tree()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, _ := v.valuesOf(t, args[0])
	var names []string
	for _, f := range list {
		names = append(names, f.name())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
