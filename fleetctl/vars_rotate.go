package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/sandbox"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type varsRotateOptions struct {
	varsOptions

	ShowOutput bool
}

func newVarsRotateCommand(o *options) *cobra.Command {
	opts := &varsRotateOptions{}
	cmd := &cobra.Command{
		Use:   "rotate GENERATOR [MACHINE…]",
		Short: "Make the values of a generator anew, and all that is made of them",
		Long: `Make the values of GENERATOR anew, for the machines, by default all that have it, and
those of every generator that reads them, on any machine: one commit, or nothing.

What the generator asks is asked again; what those ask that read it is not, where the
answer is kept. Values that somebody typed nothing can make anew: "fleetctl vars set"
sets them, and this says which. Old values stay known to whoever read them: "fleetctl
secrets status" says which hosts still have one, before it is revoked at its provider.`,
		Example: `  fleetctl vars rotate openssh-ca
  fleetctl vars rotate wg box1`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: o.completeGenerators,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsRotate(cmd.Context(), o, opts, args[0], args[1:])
		},
	}
	cmd.Flags().BoolVar(&opts.ShowOutput, "show-output", false, "show what scripts print; values that are known are cut out, others are not")
	opts.addTo(cmd)
	return cmd
}

// completeGenerators offers generators, and then machines.
func (o *options) completeGenerators(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return o.completeMachines(0)(nil, args[1:], "")
	}
	v, err := o.declaredHere()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	seen := map[string]bool{}
	for _, g := range v.set.All() {
		if !seen[g.Name] {
			seen[g.Name] = true
			names = append(names, g.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

var errTyped = errors.New("nothing makes these values: somebody typed them")

func runVarsRotate(ctx context.Context, o *options, opts *varsRotateOptions, name string, machines []string) error {
	v, c, err := o.changeValues(ctx, &opts.varsOptions)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	r := generate.Request{Machines: machines, Generator: name, Regenerate: true}
	chosen, err := v.set.Choose(r)
	if err != nil {
		return err
	}
	var set []string
	for _, g := range chosen {
		if g.Typed() {
			set = append(set, setCommands(g)...)
		}
	}
	if len(set) > 0 {
		return ui.WithHint(fmt.Errorf("generator %s: %w; nothing was done", name, errTyped), "set them: "+strings.Join(set, "; "))
	}
	ran, err := o.generate(ctx, v, c, r, opts.ShowOutput)
	if errors.Is(err, sandbox.ErrScript) {
		err = ui.WithHint(err, "--show-output shows what it printed; where it can't be mended, fleetctl vars set sets a value")
	}
	if err != nil {
		return err
	}
	return o.keepGenerated(ctx, c, ran, &opts.varsOptions)
}

// setCommands set the values of a generator by hand.
func setCommands(g *generate.Generator) (list []string) {
	for _, f := range g.Files {
		list = append(list, fmt.Sprintf("fleetctl vars set %s %s/%s", g.Machines[0], g.Name, f.Name))
	}
	return list
}
