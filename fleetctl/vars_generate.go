package fleetctl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/sandbox"
	"github.com/cameronraysmith/fleet/pkg/generator"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

type varsGenerateOptions struct {
	varsOptions

	Generator  string
	Regenerate bool
	ShowOutput bool
}

func newVarsGenerateCommand(o *options) *cobra.Command {
	opts := &varsGenerateOptions{}
	cmd := &cobra.Command{
		Use:   "generate [MACHINE…]",
		Short: "Make the values that are missing",
		Long: `Make what the generators of the machines, by default of all, lack: values that are
not there, and those of generators whose declaration changed in what clan calls its
validation. Whatever reads a value that is made is made anew as well, on any machine.
Machines without a key get one.

What generators ask is asked before anything runs, for each machine by itself; hidden
answers are typed twice. An answer that is kept as a value is not asked for again,
unless --regenerate says so. Off a terminal a generator that asks is refused.

Scripts run in a sandbox, without a network, and not at all where there is none: see
docs/generators.md. What they print is not shown, since it may be values.

Nothing is written before all generators have run and made all of their files.
Machines that came to share a secret become readers of it. A secret that others can
read than those who are linked to it stops the command (exit code 3): find out who
changed it, then "fleetctl vars fix".`,
		Example: `  fleetctl vars generate
  fleetctl vars generate box1 --generator openssh`,
		ValidArgsFunction: o.completeMachines(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsGenerate(cmd.Context(), o, opts, args)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opts.Generator, "generator", "g", "", "run this `generator`, even if it lacks nothing, and what it needs")
	f.BoolVarP(&opts.Regenerate, "regenerate", "r", false, "make values anew that are there, and ask again")
	f.BoolVar(&opts.ShowOutput, "show-output", false, "show what scripts print; values that are known are cut out, others are not")
	opts.addTo(cmd)
	return cmd
}

// generatedView is one generator that ran, in JSON.
type generatedView struct {
	Generator string   `json:"generator"`
	Machine   string   `json:"machine,omitempty"`
	Shared    bool     `json:"shared"`
	Files     []string `json:"files"`
}

// varsGenerateResult is the JSON form of vars generate.
type varsGenerateResult struct {
	Generated []generatedView `json:"generated"`
	written
}

func runVarsGenerate(ctx context.Context, o *options, opts *varsGenerateOptions, machines []string) error {
	v, c, err := o.changeValues(ctx, &opts.varsOptions)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	ran, err := o.generate(ctx, v, c, generate.Request{Machines: machines, Generator: opts.Generator, Regenerate: opts.Regenerate}, opts.ShowOutput)
	if err != nil {
		return err
	}
	return o.keepGenerated(ctx, c, ran, &opts.varsOptions)
}

// generate runs generators in a change, with progress.
func (o *options) generate(ctx context.Context, v *values, c *valueChange, r generate.Request, show bool) ([]*generate.Generator, error) {
	// A machine that enrolled before there was anything to read has a key already.
	if err := v.readWithHostKeys(c, v.set.All(), func(m string) bool {
		_, err := c.Tree().Keys(vars.Reader{Kind: vars.Machines, Name: m})
		return errors.Is(err, vars.ErrNotFound)
	}); err != nil {
		return nil, err
	}
	progress := ui.NewProgress(o.Stderr, ui.IsTerminal(o.Stderr, o.Getenv), o.Now)
	defer progress.Done()
	boxOptions := sandbox.Options{}
	if show {
		boxOptions.Output = func(name, text string) {
			progress.Done()
			for line := range strings.SplitSeq(text, "\n") {
				_, _ = fmt.Fprintf(o.Stderr, "%s: %s\n", name, line)
			}
		}
	}
	runner := &generate.Runner{
		Change: c.Change, Set: v.set, Random: rand.Reader, Now: o.Now, Ask: o.askQuestions,
		Sandbox: func(ctx context.Context) (generate.Sandbox, error) { return sandbox.Open(ctx, boxOptions) },
		Build:   func(ctx context.Context, list []flakes.Output) error { return o.nixFor(progress).Build(ctx, list) },
		Began: func(g *generate.Generator, n, of int) {
			progress.Status(fmt.Sprintf("generating %d of %d: %s", n, of, g))
		},
	}
	return runner.Run(ctx, r) //nolint:wrapcheck // It names the generator.
}

// keepGenerated commits what generators made, and tells of it.
func (o *options) keepGenerated(ctx context.Context, c *valueChange, ran []*generate.Generator, opts *varsOptions) error {
	result := varsGenerateResult{Generated: []generatedView{}}
	var err error
	if result.written, err = c.keep(ctx, generateMessage(ran)); err != nil {
		return err
	}
	for _, g := range ran {
		one := generatedView{Generator: g.Name, Machine: g.Placement().Machine(), Shared: g.Share}
		for _, f := range g.Files {
			one.Files = append(one.Files, f.Name)
		}
		result.Generated = append(result.Generated, one)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	for i, g := range ran {
		p.Printf("generated %s: %s\n", g, strings.Join(result.Generated[i].Files, ", "))
	}
	if len(result.Changed) == 0 {
		p.Printf("nothing to generate\n")
	}
	result.say(o, opts)
	return nil
}

// generateMessage is the message of the commit: clan's where one generator ran.
func generateMessage(ran []*generate.Generator) string {
	one := func(g *generate.Generator) string {
		if g.Share {
			return g.Name + " (shared)"
		}
		return fmt.Sprintf("%s (machine: %s)", g.Name, g.Machines[0])
	}
	switch len(ran) {
	case 0:
		return "vars: let machines read what they share"
	case 1:
		return "vars: update via generator " + one(ran[0])
	}
	lines := make([]string, len(ran))
	for i, g := range ran {
		lines[i] = one(g)
	}
	return fmt.Sprintf("vars: update via %d generators\n\n%s", len(ran), strings.Join(lines, "\n"))
}

// askQuestions asks what generators ask.
func (o *options) askQuestions(ctx context.Context, questions []generate.Question) ([]generator.Value, error) {
	if !o.asks() {
		names := make([]string, len(questions))
		for i, q := range questions {
			names[i] = q.String()
		}
		return nil, usageError{ui.WithHint(fmt.Errorf("there is no terminal to ask on for %s; nothing was done", strings.Join(names, ", ")),
			`run it on a terminal, or have passwords drawn with "prompt: false" in the generator's settings`)}
	}
	var answers []generator.Value
	for _, q := range questions {
		label := fmt.Sprintf("%s (%s)", q, q.Prompt.Description)
		var answer []byte
		var err error
		switch q.Prompt.Type {
		case generator.Hidden:
			answer, err = askHidden(ctx, label, o.askLine, o.Stderr)
		case generator.MultilineHidden:
			answer, err = askHidden(ctx, label, o.askLines, o.Stderr)
		case generator.Line:
			answer, err = o.askLine(ctx, label+": ", false)
		case generator.Multiline:
			answer, err = o.askLines(ctx, label+": ", false)
		default:
			err = errors.New("it is asked in no way that is known")
		}
		if err != nil {
			return answers, fmt.Errorf("asking for %s: %w", q, err)
		}
		answers = append(answers, generator.NewValue(answer))
	}
	return answers, nil
}
