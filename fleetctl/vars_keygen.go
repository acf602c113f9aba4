package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

type varsKeygenOptions struct {
	varsOptions

	User  string
	Force bool
}

func newVarsKeygenCommand(o *options) *cobra.Command {
	opts := &varsKeygenOptions{}
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make yourself somebody who reads secrets",
		Long: `Record the public halves of your age keys in sops/users/USER/key.json, so that
secrets can be encrypted to you. Where you have no key one is made, in the file where
sops looks for it; keep a copy of that file. Keys that are there already are used.

A user who has other keys is left alone, unless --force says that yours take their
place: then everything that the user reads is re-keyed, which needs somebody who can
open it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVarsKeygen(cmd.Context(), o, opts) },
	}
	f := cmd.Flags()
	f.StringVar(&opts.User, "user", "", "`name` in sops/users (default: your login name)")
	f.BoolVarP(&opts.Force, "force", "f", false, "take the place of the keys that the user has")
	opts.addTo(cmd)
	return cmd
}

// varsKeygenResult is the JSON form of vars keygen.
type varsKeygenResult struct {
	User string   `json:"user"`
	Keys []string `json:"keys"`
	// Made is the file of a new private key.
	Made string `json:"made,omitempty"`
	written
}

func runVarsKeygen(ctx context.Context, o *options, opts *varsKeygenOptions) error {
	v, err := o.declaredHere()
	if err != nil {
		return err
	}
	r := vars.Reader{Kind: vars.Users, Name: opts.User}
	if r.Name == "" {
		r.Name = strings.ToLower(userName(o.Getenv))
	}
	if err := r.Check(); err != nil {
		return usageError{ui.WithHint(err, "name the user with --user")}
	}
	result := varsKeygenResult{User: r.Name}
	ids, plugins, err := o.identities()
	if errors.Is(err, keyring.ErrNoIdentity) {
		result.Made = keyring.SopsFile(o.Getenv)
		if err := keyring.Create(result.Made); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(o.Stderr, "Made a private key in %s: whoever has it reads your secrets, and without it you don't. Keep a copy.\n", result.Made)
		ids, plugins, err = o.identities()
	}
	if err != nil {
		return err
	}
	keys, err := publicKeys(ids)
	if err != nil {
		return err
	}
	for _, k := range keys {
		result.Keys = append(result.Keys, k.PublicKey)
	}
	c, err := v.change(ctx, o, &opts.varsOptions, ids, plugins)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	old, err := c.Tree().Keys(r)
	if err == nil && !opts.Force && !slices.Equal(old, keys) {
		return ui.WithHint(fmt.Errorf("user %s has other keys than yours: sops/users/%[1]s/key.json", r.Name),
			"name yourself with --user; if the keys are to be yours, say --force")
	}
	if err := c.SetKeys(r, keys); err != nil {
		return err
	}
	if result.written, err = c.keep(ctx, "secrets: add keys of user "+r.Name); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(result)
	}
	for _, k := range result.Keys {
		p.Printf("user %s reads with %s\n", r.Name, k)
	}
	result.say(o, &opts.varsOptions)
	return nil
}

// publicKeys are those of the identities, sorted as clan keeps them.
func publicKeys(ids []sops.Identity) ([]vars.Key, error) {
	var keys []vars.Key
	for _, id := range ids {
		if id.Recipient == "" {
			continue // Of a plugin, without the line that says it.
		}
		if k := (vars.Key{PublicKey: id.Recipient, Type: vars.AgeKey}); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, ui.WithHint(errors.New("none of your age keys tells its public half"), `write a line "# recipient: age1…" before that of the plugin`)
	}
	slices.SortFunc(keys, func(a, b vars.Key) int { return strings.Compare(a.PublicKey, b.PublicKey) })
	return keys, nil
}
