package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// keyHelp says what a key in arguments is.
const keyHelp = `KEY is public: age1…, or "ssh-ed25519 …" as one argument.`

// newSecretsReadersCommand has the verbs about users, or about machines.
func newSecretsReadersCommand(o *options, kind vars.Kind) *cobra.Command {
	word := strings.TrimSuffix(string(kind), "s")
	cmd := &cobra.Command{
		Use:   string(kind),
		Short: fmt.Sprintf("Show and change the %s that read secrets", kind),
		Long: fmt.Sprintf(`Show and change the %s in sops/%s that read secrets, with their public keys. What a
change concerns is encrypted anew, in the same commit; you must be able to open it.`, kind, kind),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	name := strings.ToUpper(word)
	verb := func(use, short, long string, args cobra.PositionalArgs, run func(ctx context.Context, opts *varsOptions, r vars.Reader, keys []vars.Key) error) {
		opts := &varsOptions{}
		c := &cobra.Command{
			Use: use, Short: short, Long: long, Args: args,
			RunE: func(cmd *cobra.Command, args []string) error {
				r, keys, err := readerAndKeys(kind, args)
				if err != nil {
					return err
				}
				return run(cmd.Context(), opts, r, keys)
			},
		}
		opts.addTo(c)
		cmd.AddCommand(c)
	}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List them, with how many secrets each reads", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runReadersList(o, kind) },
	}, &cobra.Command{
		Use: "get " + name, Short: "Show one's keys and what it reads", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runReaderGet(o, kind, args[0]) },
	})
	keys := cobra.MinimumNArgs(2)
	if kind == vars.Machines {
		keys = cobra.ExactArgs(2)
	}
	verb("add "+name+" KEY…", "Add a "+word+", or give it other keys",
		"Add a "+word+", or, where there is one of that name, give it these keys and no others.\n"+keyHelp, keys,
		func(ctx context.Context, opts *varsOptions, r vars.Reader, keys []vars.Key) error {
			return o.changeReaders(ctx, opts, "secrets: add "+r.String(), func(c *vars.Change) error { return c.SetKeys(r, keys) })
		})
	verb("remove "+name, "Remove a "+word+" from everything",
		"Remove a "+word+", with its keys and from all groups and secrets. What it knows is named: make new\nvalues of that, or have fleetctl secrets revoke "+word+":"+name+" do both.", cobra.ExactArgs(1),
		func(ctx context.Context, opts *varsOptions, r vars.Reader, _ []vars.Key) error {
			return o.changeReaders(ctx, opts, "secrets: remove "+r.String(), func(c *vars.Change) error { return c.Remove(r) })
		})
	if kind == vars.Users {
		verb("add-key USER KEY…", "Give a user more keys", "Give a user more keys.\n"+keyHelp, cobra.MinimumNArgs(2),
			func(ctx context.Context, opts *varsOptions, r vars.Reader, keys []vars.Key) error {
				return o.changeReaders(ctx, opts, "secrets: more keys of "+r.String(), func(c *vars.Change) error { return changeKeys(c, r, keys, false) })
			})
		verb("remove-key USER KEY…", "Take keys of a user away", "Take keys of a user away. What they open, whoever has them knows.\n"+keyHelp, cobra.MinimumNArgs(2),
			func(ctx context.Context, opts *varsOptions, r vars.Reader, keys []vars.Key) error {
				return o.changeReaders(ctx, opts, "secrets: fewer keys of "+r.String(), func(c *vars.Change) error { return changeKeys(c, r, keys, true) })
			})
	}
	explainIn(cmd)
	return cmd
}

// readerAndKeys reads the arguments of verbs.
func readerAndKeys(kind vars.Kind, args []string) (r vars.Reader, keys []vars.Key, err error) {
	r = vars.Reader{Kind: kind, Name: args[0]}
	if err := r.Check(); err != nil {
		return r, nil, usageError{err}
	}
	for _, text := range args[1:] {
		to, err := sops.ParseRecipient(text, nil)
		if err != nil {
			return r, nil, usageError{err}
		}
		keys = append(keys, vars.Key{PublicKey: to.Text, Type: vars.AgeKey})
	}
	return r, keys, nil
}

// changeKeys adds keys to a user's, or takes them away.
func changeKeys(c *vars.Change, r vars.Reader, keys []vars.Key, away bool) error {
	now, err := c.Tree().Keys(r)
	if err != nil {
		return ui.WithHint(err, "fleetctl secrets users list has them")
	}
	is := func(k vars.Key) func(vars.Key) bool {
		return func(other vars.Key) bool { return sops.Canonical(other.PublicKey) == sops.Canonical(k.PublicKey) }
	}
	now = slices.Clone(now)
	for _, k := range keys {
		has := slices.ContainsFunc(now, is(k))
		switch {
		case away && !has:
			return ui.WithHint(fmt.Errorf("%s has no key %s", r, k.PublicKey), "fleetctl secrets users get "+r.Name+" has those")
		case away:
			now = slices.DeleteFunc(now, is(k))
		case !has:
			now = append(now, k)
		}
	}
	if len(now) == 0 {
		return ui.WithHint(errors.New("that is the last key of "+r.String()), "fleetctl secrets users remove "+r.Name+" takes the user away")
	}
	return c.SetKeys(r, now)
}

// changeReaders makes a change of readers, with what it concerns encrypted anew.
func (o *options) changeReaders(ctx context.Context, opts *varsOptions, message string, do func(*vars.Change) error) error {
	_, c, err := o.changeValues(ctx, opts)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // What is kept is kept.
	if err := do(c.Change); err != nil {
		return ui.WithHint(err, "nothing was changed")
	}
	return c.keepReaders(ctx, opts, nil, message)
}

// readerView is a user or machine, in JSON.
type readerView struct {
	Name   string   `json:"name"`
	Keys   []string `json:"keys"`
	Groups []string `json:"groups"`
	// Secrets that it reads, directly or by a group.
	Secrets []string `json:"secrets"`
}

func viewOfReader(t *vars.Tree, r vars.Reader) (readerView, error) {
	v := readerView{Name: r.Name, Keys: []string{}, Groups: []string{}, Secrets: []string{}}
	keys, err := t.Keys(r)
	if err != nil {
		return v, err //nolint:wrapcheck // It names the reader.
	}
	for _, k := range keys {
		v.Keys = append(v.Keys, k.PublicKey)
	}
	for _, g := range t.Readers(vars.Groups) {
		members, err := t.Members(g.Name)
		if err != nil {
			return v, err //nolint:wrapcheck // It names the group.
		}
		if slices.Contains(members, r) {
			v.Groups = append(v.Groups, g.Name)
		}
	}
	for _, e := range t.Entries() {
		if !e.Secret {
			continue
		}
		readers, err := t.ReadersOf(e)
		if err != nil {
			return v, err //nolint:wrapcheck // It names the entry.
		}
		if slices.Contains(readers, r) {
			v.Secrets = append(v.Secrets, e.Path)
		}
	}
	return v, nil
}

func runReadersList(o *options, kind vars.Kind) error {
	t, err := o.treeHere()
	if err != nil {
		return err
	}
	views := []readerView{}
	for _, r := range t.Readers(kind) {
		v, err := viewOfReader(t, r)
		if err != nil {
			return err
		}
		views = append(views, v)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(views)
	}
	var rows [][]string
	for _, v := range views {
		rows = append(rows, []string{v.Name, counted(len(v.Keys), "key"), strings.Join(v.Groups, ", "), counted(len(v.Secrets), "secret")})
	}
	p.Table([]string{"NAME", "KEYS", "GROUPS", "READS"}, rows)
	return nil
}

func runReaderGet(o *options, kind vars.Kind, name string) error {
	t, err := o.treeHere()
	if err != nil {
		return err
	}
	v, err := viewOfReader(t, vars.Reader{Kind: kind, Name: name})
	if err != nil {
		return ui.WithHint(err, "fleetctl secrets "+string(kind)+" list has them")
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(v)
	}
	for _, list := range []struct {
		what string
		of   []string
	}{{"key", v.Keys}, {"group", v.Groups}, {"reads", v.Secrets}} {
		for _, text := range list.of {
			p.Printf("%s %s\n", list.what, text)
		}
	}
	return nil
}

// treeHere reads the trees, for who changes nothing.
func (o *options) treeHere() (*vars.Tree, error) {
	v, err := o.declaredHere()
	if err != nil {
		return nil, err
	}
	return v.tree()
}

func newSecretsGroupsCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   string(vars.Groups),
		Short: "Show and change the groups that read secrets",
		Long: `Show and change the groups in sops/groups that read secrets. A group comes to be with its
first member. What it reads is encrypted anew, in the same commit.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List them, with their members", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runGroupsList(o) },
	})
	for _, kind := range []vars.Kind{vars.Users, vars.Machines} {
		word := strings.TrimSuffix(string(kind), "s")
		for _, v := range []struct {
			verb, short string
			do          func(*vars.Change, string, vars.Reader) error
		}{
			{"add", "Put a " + word + " into a group", (*vars.Change).AddMember},
			{"remove", "Take a " + word + " out of a group; what it knows is named", (*vars.Change).RemoveMember},
		} {
			opts := &varsOptions{}
			c := &cobra.Command{
				Use: v.verb + "-" + word + " GROUP " + strings.ToUpper(word), Short: v.short, Args: cobra.ExactArgs(2),
				RunE: func(cmd *cobra.Command, args []string) error {
					r := vars.Reader{Kind: kind, Name: args[1]}
					if err := errors.Join(r.Check(), vars.Reader{Kind: vars.Groups, Name: args[0]}.Check()); err != nil {
						return usageError{err}
					}
					message := fmt.Sprintf("secrets: %s %s, group %s", v.verb, r, args[0])
					return o.changeReaders(cmd.Context(), opts, message, func(c *vars.Change) error { return v.do(c, args[0], r) })
				},
			}
			opts.addTo(c)
			cmd.AddCommand(c)
		}
	}
	explainIn(cmd)
	return cmd
}

func runGroupsList(o *options) error {
	t, err := o.treeHere()
	if err != nil {
		return err
	}
	type group struct {
		Name    string   `json:"name"`
		Members []string `json:"members"`
	}
	groups := []group{}
	for _, g := range t.Readers(vars.Groups) {
		members, err := t.Members(g.Name)
		if err != nil {
			return err //nolint:wrapcheck // It names the group.
		}
		view := group{g.Name, []string{}}
		for _, m := range members {
			view.Members = append(view.Members, m.String())
		}
		groups = append(groups, view)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(groups)
	}
	var rows [][]string
	for _, g := range groups {
		rows = append(rows, []string{g.Name, strings.Join(g.Members, ", ")})
	}
	p.Table([]string{"NAME", "MEMBERS"}, rows)
	return nil
}
