package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

func newVarsListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list MACHINE",
		Short: "List a machine's values; secrets are not shown",
		Long: `List the values of MACHINE, those that it shares with others among them, and those
that are in the repository without being declared in fleet.yaml. Secrets are shown as
********, what is missing as <not set>. No private key is needed.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return runVarsList(cmd.Context(), o, args[0]) },
	}
}

// valueView is a value in JSON.
type valueView struct {
	Generator string `json:"generator"`
	File      string `json:"file"`
	Path      string `json:"path"`
	Shared    bool   `json:"shared"`
	Declared  bool   `json:"declared"`
	Secret    bool   `json:"secret"`
	Exists    bool   `json:"exists"`
	// What follows is of declared ones.
	Deploy       *bool    `json:"deploy,omitempty"`
	NeededFor    string   `json:"needed_for,omitempty"`
	Owner        string   `json:"owner,omitempty"`
	Group        string   `json:"group,omitempty"`
	Mode         string   `json:"mode,omitempty"`
	RestartUnits []string `json:"restart_units,omitempty"`
	// Readers are the users and machines that a secret's links come to.
	Readers []string `json:"readers,omitempty"`
	// Value is that of a public one that is text; Bytes, in base64, of another.
	Value *string `json:"value,omitempty"`
	Bytes []byte  `json:"bytes,omitempty"`
}

func runVarsList(ctx context.Context, o *options, machine string) error {
	v, err := o.values(ctx)
	if err != nil {
		return err
	}
	t, err := v.tree()
	if err != nil {
		return err
	}
	list, err := v.valuesOf(t, machine)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b value) int { return strings.Compare(a.name(), b.name()) })
	p := o.printer()
	views := []valueView{}
	for _, f := range list {
		view := valueView{
			Generator: f.ID.Generator, File: f.File, Path: f.Path, Shared: f.Placement.Shared(),
			Declared: f.Generator != nil, Secret: f.Secret, Exists: f.Exists,
		}
		var public []byte
		switch {
		case f.Exists && f.Secret:
			e, err := t.Entry(f.Path)
			if err != nil {
				return err
			}
			readers, err := t.ReadersOf(e)
			if err != nil {
				return ui.WithHint(err, "fleetctl vars check names all such")
			}
			for _, r := range readers {
				view.Readers = append(view.Readers, r.String())
			}
		case f.Exists:
			if public, err = t.Value(f.Path); err != nil {
				return err
			}
			if text := string(public); utf8.ValidString(text) {
				view.Value = &text
			} else {
				view.Bytes = public
			}
		}
		if f.Generator != nil {
			file, _ := f.Generator.File(f.File)
			view.Deploy = &file.Deploy
			if file.Secret {
				view.NeededFor, view.Owner, view.Group = string(file.NeededFor), file.Owner, file.Group
				view.Mode, view.RestartUnits = fmt.Sprintf("%04o", file.Mode), file.RestartUnits
			}
		}
		views = append(views, view)
		if !p.JSON() {
			p.Printf("%s: %s\n", f.name(), shownValue(f, public))
		}
	}
	if p.JSON() {
		return p.Value(views)
	}
	return nil
}

// shownValue is a value on a line.
func shownValue(f value, public []byte) string {
	text := strings.TrimRight(string(public), "\n")
	switch {
	case !f.Exists:
		return "<not set>"
	case f.Secret:
		return "********"
	case !utf8.Valid(public):
		return "<binary blob>"
	case strings.ContainsFunc(text, unicode.IsControl):
		return strconv.Quote(text) // A repository's bytes do nothing to a terminal.
	}
	return text
}

func newVarsGetCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "get MACHINE GENERATOR/FILE",
		Short: "Print a value, secret or not",
		Long: `Print a value, secret or not, byte for byte. On a terminal a newline is added where
there is none at its end, and what is no text is refused. It is printed as it is with
--output json, too.`,
		Example:           "  fleetctl vars get box1 openssh/ssh.id_ed25519.pub",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completeValues,
		RunE:              func(cmd *cobra.Command, args []string) error { return runVarsGet(cmd.Context(), o, args[0], args[1]) },
	}
}

func runVarsGet(ctx context.Context, o *options, machine, name string) error {
	v, err := o.values(ctx)
	if err != nil {
		return err
	}
	t, err := v.tree()
	if err != nil {
		return err
	}
	f, err := v.valueOf(t, machine, name)
	if err != nil {
		return err
	}
	if !f.Exists {
		return ui.WithHint(fmt.Errorf("%s of machine %s is not set", f.name(), machine), "fleetctl vars generate "+machine+" makes it, fleetctl vars set sets it")
	}
	if recoveryPassword(f) {
		return ui.WithHint(fmt.Errorf("%s of machine %s is a recovery password, and each look at one is on record", f.name(), machine), "fleetctl ssh recovery "+machine+" shows it")
	}
	var text []byte
	if f.Secret {
		ids, _, err := o.identities()
		if err != nil {
			return err
		}
		if text, err = t.Read(f.Path, ids); err != nil {
			return err
		}
		defer clear(text)
	} else if text, err = t.Value(f.Path); err != nil {
		return err
	}
	if ui.OnTerminal(o.Stdout) {
		if !utf8.Valid(text) {
			return ui.WithHint(fmt.Errorf("%s is no text, and this is a terminal", f.name()), "redirect it to a file that only you can read")
		}
		if !strings.HasSuffix(string(text), "\n") {
			text = append(text, '\n')
		}
	}
	_, err = o.Stdout.Write(text)
	return err
}

func newVarsSetCommand(o *options) *cobra.Command {
	opts := &varsOptions{}
	cmd := &cobra.Command{
		Use:   "set MACHINE GENERATOR/FILE",
		Short: "Set a value, read from standard input",
		Long: `Set a value that is declared, or that is in the repository. It is read from standard
input as it is, at most 1 MiB; on a terminal it is asked for, hidden and twice, and
ends without a newline. What other generators made of the value before is not made
anew: "fleetctl vars generate --generator NAME" does that.`,
		Example:           "  fleetctl vars set box1 wifi/password < password.txt",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: o.completeValues,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVarsSet(cmd.Context(), o, opts, args[0], args[1])
		},
	}
	opts.addTo(cmd)
	return cmd
}

// varsSetResult is the JSON form of vars set.
type varsSetResult struct {
	Path string `json:"path"`
	written
}

func runVarsSet(ctx context.Context, o *options, opts *varsOptions, machine, name string) error {
	v, c, err := o.changeValues(ctx, opts)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	f, err := v.valueOf(c.Tree(), machine, name)
	if err != nil {
		return err
	}
	text, err := o.readValue(ctx, f.name())
	if err != nil {
		return err
	}
	defer clear(text)
	switch {
	case !f.Secret:
		err = c.PutPublic(f.ID, text)
	case f.Generator == nil:
		err = c.PutSecret(f.Path, text, vars.Access{})
	default:
		err = c.PutSecret(f.Path, text, v.set.Access(f.Generator, f.File))
	}
	if err != nil {
		return err
	}
	result := varsSetResult{Path: f.Path}
	if result.written, err = c.keep(ctx, fmt.Sprintf("vars: update %s for machine %s", f.name(), machine)); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	if len(result.Changed) == 0 {
		p.Printf("%s has this value already\n", f.Path)
	} else {
		p.Printf("set %s\n", f.Path)
	}
	result.say(o, opts)
	return nil
}

// readValue reads a value from standard input, or asks for it.
func (o *options) readValue(ctx context.Context, name string) ([]byte, error) {
	if o.asks() {
		return askHidden(ctx, "Value of "+name, o.askLines, o.Stderr)
	}
	text, err := io.ReadAll(io.LimitReader(o.Stdin, sops.MaxValue+1))
	if err != nil {
		return nil, fmt.Errorf("reading the value: %w", err)
	}
	if len(text) > sops.MaxValue {
		clear(text)
		return nil, ui.WithHint(errors.New("the value is too large"), fmt.Sprintf("at most %d bytes can be kept", sops.MaxValue))
	}
	return text, nil
}
