package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

func newVarsCheckCommand(o *options) *cobra.Command {
	var generator string
	cmd := &cobra.Command{
		Use:   "check [MACHINE…]",
		Short: "Name what is missing or read by others than meant, and exit with 1 where something is",
		Long: `Look at the values of the machines, by default of all, and exit with 1 where one is
missing, is of another declaration, or is encrypted to others than those who are
meant to read it. No private key is needed.`,
		ValidArgsFunction: o.completeMachines(0),
		RunE:              func(cmd *cobra.Command, args []string) error { return runVarsCheck(cmd.Context(), o, generator, args) },
	}
	cmd.Flags().StringVarP(&generator, "generator", "g", "", "look at this `generator` only")
	return cmd
}

// findingView is one thing that is wrong, in JSON.
type findingView struct {
	Path      string               `json:"path"`
	Generator string               `json:"generator"`
	Machine   string               `json:"machine,omitempty"`
	File      string               `json:"file,omitempty"`
	Kind      generate.FindingKind `json:"kind"`
	Message   string               `json:"message"`
}

// varsVerdict is the JSON form of vars check.
type varsVerdict struct {
	OK         bool          `json:"ok"`
	Generators int           `json:"generators"`
	Findings   []findingView `json:"findings,omitempty"`
}

func runVarsCheck(ctx context.Context, o *options, generator string, machines []string) error {
	v, err := o.values(ctx)
	if err != nil {
		return err
	}
	t, err := v.tree()
	if err != nil {
		return err
	}
	chosen, err := v.set.Choose(generate.Request{Machines: machines, Generator: generator})
	if err != nil {
		return err
	}
	found := v.set.Check(t, chosen)
	verdict := varsVerdict{OK: len(found) == 0, Generators: len(chosen)}
	kinds := map[generate.FindingKind]bool{}
	for _, f := range found {
		kinds[f.Kind] = true
		verdict.Findings = append(verdict.Findings, findingView{
			strings.TrimSuffix(f.Generator.ID(f.File).Path(), "/"), f.Generator.Name, f.Generator.Placement().Machine(), f.File, f.Kind, f.Err.Error(),
		})
	}
	p := o.printer()
	if p.JSON() {
		if err := p.Value(verdict); err != nil {
			return err
		}
	} else {
		for _, f := range verdict.Findings {
			p.Printf("%s: %s: %s\n", f.Path, f.Kind, f.Message)
		}
	}
	if len(found) == 0 {
		if !p.JSON() {
			p.Printf("ok: %s\n", counted(len(chosen), "generator"))
		}
		return nil
	}
	var do []string
	if kinds[generate.Missing] || kinds[generate.Stale] {
		do = append(do, "fleetctl vars generate makes what is missing or stale")
	}
	if kinds[generate.Readers] {
		do = append(do, "fleetctl vars fix encrypts to those who are meant, once you know why others can read")
	}
	return ui.WithHint(errors.New(counted(len(found), "problem")+" with values"), strings.Join(do, "; "))
}

type varsFixOptions struct {
	varsOptions

	Generator string
	HostKeys  bool
}

func newVarsFixCommand(o *options) *cobra.Command {
	opts := &varsFixOptions{}
	cmd := &cobra.Command{
		Use:   "fix [MACHINE…]",
		Short: "Encrypt secrets to just those who are meant to read them",
		Long: `Encrypt the secrets of the machines, by default of all, to just those who are linked
to them, the machines that they are deployed to, and the groups of vars.groups.
Machines are taken from what is not deployed. Values stay what they are: whoever could
read one knows it, and it says for which that is so.

With --host-keys machines that have enrolled, with a key that they made themselves,
read with that from now on, and not with the one that was made for them here.`,
		ValidArgsFunction: o.completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsFix(cmd.Context(), o, opts, args)
		},
	}
	cmd.Flags().StringVarP(&opts.Generator, "generator", "g", "", "mend this `generator` only")
	cmd.Flags().BoolVar(&opts.HostKeys, "host-keys", false, "have machines read with the keys that they enrolled with")
	opts.addTo(cmd)
	return cmd
}

// exposedView is a value that somebody knows who reads it no more, in JSON.
type exposedView struct {
	Path string   `json:"path"`
	To   []string `json:"to"`
}

// readersResult is the JSON form of commands that change readers.
type readersResult struct {
	Rekeyed []string `json:"rekeyed,omitempty"`
	// Exposed must be made anew.
	Exposed []exposedView `json:"exposed,omitempty"`
	written
}

// keepReaders makes a change of readers and tells what came of it.
func (c *valueChange) keepReaders(ctx context.Context, opts *varsOptions, rekeyed []string, message string) error {
	result := readersResult{Rekeyed: rekeyed}
	for _, e := range c.Exposed() {
		result.Exposed = append(result.Exposed, exposedView{e.Entry.Path, e.Who})
	}
	var err error
	if result.written, err = c.keep(ctx, message); err != nil {
		return err
	}
	p := c.o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	for _, path := range rekeyed {
		p.Printf("re-keyed %s\n", path)
	}
	for _, e := range result.Exposed {
		p.Printf("%s is known to %s: make a new value\n", e.Path, strings.Join(e.To, ", "))
	}
	if len(result.Changed) == 0 {
		p.Printf("nothing to change\n")
	}
	result.say(c.o, opts)
	return nil
}

func runVarsFix(ctx context.Context, o *options, opts *varsFixOptions, machines []string) error {
	v, c, err := o.changeValues(ctx, &opts.varsOptions)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	chosen, err := v.set.Choose(generate.Request{Machines: machines, Generator: opts.Generator})
	if err != nil {
		return err
	}
	if opts.HostKeys {
		if err := v.readWithHostKeys(c, chosen, func(string) bool { return true }); err != nil {
			return err
		}
	}
	rekeyed, err := v.set.Fix(c.Change, chosen)
	if err != nil {
		return ui.WithHint(fmt.Errorf("%w; nothing was changed", err), "who can open them must run it; links that are refused must be removed by hand")
	}
	of := "all machines"
	if len(machines) > 0 {
		of = strings.Join(machines, ", ")
	}
	return c.keepReaders(ctx, &opts.varsOptions, rekeyed, "secrets: fix vars for "+of)
}

const readerHelp = `READER is user:NAME, machine:NAME or group:NAME, each of which has a directory in
sops/. A user makes it with "fleetctl vars keygen".`

func newVarsReaderCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reader",
		Short: "Add or remove who reads a secret",
		Long:  "Add or remove who reads a secret, besides the machines that it is deployed to.\n" + readerHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	add, remove := &varsOptions{}, &varsOptions{}
	addCmd := &cobra.Command{
		Use:               "add MACHINE GENERATOR/FILE READER",
		Short:             "Let somebody read a secret",
		Long:              "Let somebody read a secret. You must be able to open it.\n" + readerHelp,
		Example:           "  fleetctl vars reader add box1 wifi/password user:tara",
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: o.completeValues,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsReader(cmd.Context(), o, add, args, "add", (*vars.Change).AddReader)
		},
	}
	removeCmd := &cobra.Command{
		Use:   "remove MACHINE GENERATOR/FILE READER",
		Short: "Take a reader away from a secret",
		Long: `Take a reader away from a secret. That does not take back what the reader knows, the
value itself and whatever is in the history of git, so make a new value after it.
` + readerHelp,
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: o.completeValues,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsReader(cmd.Context(), o, remove, args, "remove", (*vars.Change).RemoveReader)
		},
	}
	add.addTo(addCmd)
	remove.addTo(removeCmd)
	cmd.AddCommand(addCmd, removeCmd)
	return cmd
}

func parseReader(text string) (vars.Reader, error) {
	kind, name, ok := strings.Cut(text, ":")
	r := vars.Reader{Kind: vars.Kind(kind + "s"), Name: name}
	if err := r.Check(); !ok || err != nil {
		return r, usageError{ui.WithHint(fmt.Errorf("%.100q is no reader", text), "write user:NAME, machine:NAME or group:NAME")}
	}
	return r, nil
}

func runVarsReader(ctx context.Context, o *options, opts *varsOptions, args []string, verb string, do func(*vars.Change, string, vars.Reader) error) error {
	r, err := parseReader(args[2])
	if err != nil {
		return err
	}
	v, c, err := o.changeValues(ctx, opts)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	f, err := v.valueOf(c.Tree(), args[0], args[1])
	if err != nil {
		return err
	}
	if !f.Secret || !f.Exists {
		return ui.WithHint(fmt.Errorf("%s is no secret that is set", f.Path), "public values are read by everybody with the repository")
	}
	if err := do(c.Change, f.Path, r); err != nil {
		return err
	}
	return c.keepReaders(ctx, opts, nil, fmt.Sprintf("secrets: %s %s: %s", verb, r, f.Path))
}
