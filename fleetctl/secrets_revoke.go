package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

func newSecretsRevokeCommand(o *options) *cobra.Command {
	opts := &varsOptions{}
	cmd := &cobra.Command{
		Use:   "revoke READER | NAME",
		Short: "Take a reader out of everything, or a secret's older values from hosts",
		Long: `Revoke a reader, or what a secret was before.

With READER, a user, machine or group is taken away, with its keys and from all groups and
secrets, and all values are made anew that it could read, and those that are made of them:
one commit, or nothing. Their older versions are revoked on hosts too. What nothing makes,
values that somebody typed, secrets without a generator and private keys of machines, is
named: it is still known to who was taken away. A machine must be out of fleet.yaml before.
You can't take yourself away.

With NAME, that of settings or GENERATOR/FILE, the versions before its newest value are
revoked on all machines that have it. Make the new value first.

From the next release on, signed in it, no host has a version that was revoked, by no
rollback and no boot: an older generation gets the newest version instead, at its place, or
none where there is none; what may break by that is said. Values that a flake's generators
make are part of systems: there nobody, and no coordinator, sends a host back to a system of
before. One whose activation fails still goes back by itself, since a host that is lost
keeps no secret.
` + readerHelp,
		Example: "  fleetctl secrets revoke user:tara\n  fleetctl secrets revoke db/password",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.Contains(args[0], ":") {
				return runRevokeValue(cmd.Context(), o, opts, args[0])
			}
			return runSecretsRevoke(cmd.Context(), o, opts, args[0])
		},
	}
	opts.addTo(cmd)
	return cmd
}

// revokeResult is the JSON form of secrets revoke.
type revokeResult struct {
	Reader    string   `json:"reader"`
	Generated []string `json:"generated"`
	// Known are the secrets that the reader knows, and that nothing made anew.
	Known []string `json:"known"`
	*revocation
	written
}

func runSecretsRevoke(ctx context.Context, o *options, opts *varsOptions, text string) error {
	r, err := parseReader(text)
	if err != nil {
		return err
	}
	v, c, err := o.changeValues(ctx, opts)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	t := c.Tree()
	if err := v.mayRevoke(o, t, r); err != nil {
		return err
	}
	chosen, known, err := v.knownTo(t, r)
	if err != nil {
		return err
	}
	result := revokeResult{Reader: text, Generated: []string{}, Known: append([]string{}, known...), revocation: newRevocation()}
	if len(chosen) > 0 {
		// Before its keys are gone, so that nothing looks smuggled in; what is made now it
		// reads no more once it is taken away, which is in the same change.
		ran, err := o.generate(ctx, v, c, generate.Request{Chosen: chosen, Regenerate: true}, false)
		if err != nil {
			return err
		}
		for _, g := range ran {
			result.Generated = append(result.Generated, g.String())
		}
		published, err := v.published()
		if err != nil {
			return err
		}
		result.generated(published, ran, o.Now())
	}
	if err := c.Remove(r); err != nil {
		return ui.WithHint(err, "nothing was changed")
	}
	// First: a new value without its floor would be forgotten about, and a floor without a
	// new value has the next release say so.
	if c.beside, err = result.record(v.workspace); err != nil {
		return err
	}
	if result.written, err = c.keep(ctx, fmt.Sprintf("secrets: revoke %s\n\n%s", text, strings.Join(result.Generated, "\n"))); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	for _, g := range result.Generated {
		p.Printf("generated %s\n", g)
	}
	for _, path := range result.Known {
		p.Printf("%s is known to %s: make a new value\n", path, text)
	}
	p.Printf("revoked %s\n", text)
	result.revocation.say(p)
	result.written.say(o, opts)
	return nil
}

// mayRevoke refuses readers that would be back with the next run, and oneself.
func (v *values) mayRevoke(o *options, t *vars.Tree, r vars.Reader) error {
	switch r.Kind {
	case vars.Machines:
		for _, m := range v.fleet.Machines() {
			if string(m.Name) == r.Name {
				return ui.WithHint(fmt.Errorf("%s is in the fleet: it would get its values again", r), "take it out of fleet.yaml first")
			}
		}
	case vars.Groups:
		if slices.Contains(v.set.Groups, r.Name) {
			return ui.WithHint(fmt.Errorf("%s reads every value: vars.groups of fleet.yaml names it", r), "take it out of there first")
		}
	case vars.Users:
		ids, _, err := o.identities()
		if err != nil {
			return err
		}
		if me, err := t.Person(ids, []vars.Reader{r}); err == nil && me == r {
			return ui.WithHint(errors.New("these are your own keys"), "let somebody else run it, who can read the same")
		}
	}
	return nil
}

// knownTo finds what a reader can read: the generators that make it, and the paths of what
// nothing makes.
func (v *values) knownTo(t *vars.Tree, r vars.Reader) (chosen []*generate.Generator, known []string, err error) {
	for _, e := range t.Entries() {
		if !e.Secret {
			continue
		}
		readers, err := t.ReadersOf(e)
		if err != nil {
			return nil, nil, err //nolint:wrapcheck // It names the entry.
		}
		if !slices.Contains(readers, r) && !slices.Contains(e.Links, r) {
			continue
		}
		g := v.set.Making(e.Path)
		switch {
		case g == nil || g.Typed():
			known = append(known, e.Path)
		case !slices.Contains(chosen, g):
			chosen = append(chosen, g)
		}
	}
	return chosen, known, nil
}
