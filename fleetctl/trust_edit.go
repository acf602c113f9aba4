package fleetctl

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/rootedit"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func newTrustAddKeyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "add-key ROLE KEY",
		Short: "Add a key to a role, in the draft",
		Long:  "Add KEY to ROLE in the draft of the next trust root. The threshold stays.\n\n" + keyArgHelp,
		Example: `  fleetctl trust add-key root new
  fleetctl trust add-key release ssh-agent:SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpKZIDTMczCvj3tD2s`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeRoles,
		RunE: func(_ *cobra.Command, args []string) error {
			return o.editRole(args[0], func(e *draftEdit, role release.RoleName) (string, error) {
				id, key, err := resolveKey(e.w, e.keys, e.root, role, args[1])
				if err != nil {
					return "", err
				}
				return fmt.Sprintf("%s: add key %.12s", role, id), rootedit.AddKey(e.root, role, id, key)
			})
		},
	}
}

func newTrustRemoveKeyCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "remove-key ROLE KEY-ID",
		Short: "Take a key from a role, in the draft",
		Long: `Take the key whose id begins with KEY-ID from ROLE in the draft of the next trust
root. What a release or secrets key signed is no longer offered to hosts once
the trust root is published without it: sign it again with "fleetctl publish
--refresh".`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeRoles,
		RunE: func(_ *cobra.Command, args []string) error {
			return o.editRole(args[0], func(e *draftEdit, role release.RoleName) (string, error) {
				id, err := rootedit.RemoveKey(e.root, role, args[1])
				return fmt.Sprintf("%s: remove key %.12s", role, id), err
			})
		},
	}
}

func newTrustThresholdCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "set-threshold ROLE NUMBER",
		Short:             "Say how many keys of a role have to sign, in the draft",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeRoles,
		RunE: func(_ *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[1])
			if err != nil {
				return usageError{fmt.Errorf("%.40q is no number of keys", args[1])}
			}
			return o.editRole(args[0], func(e *draftEdit, role release.RoleName) (string, error) {
				return fmt.Sprintf("%s: threshold %d", role, n), rootedit.SetThreshold(e.root, role, n)
			})
		},
	}
}

type rotateOptions struct {
	To         string
	RaiseEpoch bool
}

func newTrustRotateCommand(o *options) *cobra.Command {
	opts := &rotateOptions{}
	cmd := &cobra.Command{
		Use:   "rotate [ROLE [KEY-ID]]",
		Short: "Put a new key in the place of an old one, in the draft",
		Long: `Replace the key of ROLE whose id begins with KEY-ID (not needed where the role has
one key) by --to, in the draft of the next trust root.

--raise-epoch makes the numbers of generations begin anew above all that were ever
used: for when a stolen release key may have used up numbers. Without a role it is
all that changes.

--to takes a KEY. ` + keyArgHelp,
		Example: `  fleetctl trust rotate release
  fleetctl trust rotate root 3f9a --to trust/keys/root-dana.pub
  fleetctl trust rotate --raise-epoch`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: completeRoles,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				if !opts.RaiseEpoch {
					return usageError{ui.WithHint(errors.New("which role?"), "name one, or --raise-epoch")}
				}
				return o.editDraft(func(e *draftEdit) (string, error) { return e.raiseEpoch(), nil })
			}
			return o.editRole(args[0], func(e *draftEdit, role release.RoleName) (string, error) { return e.rotate(opts, role, args[1:]) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.To, "to", newKeyWord, "the `key` that comes in its place")
	f.BoolVar(&opts.RaiseEpoch, "raise-epoch", false, "begin a new epoch of numbers, too")
	return cmd
}

type renewOptions struct {
	Expiry time.Duration
}

func newTrustRenewCommand(o *options) *cobra.Command {
	opts := &renewOptions{}
	cmd := &cobra.Command{
		Use:   "renew",
		Short: "Give the trust root a new expiry, in the draft",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			const least, most = 24 * time.Hour, 10 * 365 * 24 * time.Hour
			if opts.Expiry < least || opts.Expiry > most {
				return usageError{fmt.Errorf("--expiry %s: want 24h to 87600h", opts.Expiry)}
			}
			return o.editDraft(func(e *draftEdit) (string, error) {
				rootedit.Renew(e.root, o.Now(), opts.Expiry)
				return "expires " + e.root.Expires.UTC().Format(time.DateOnly), nil
			})
		},
	}
	cmd.Flags().DurationVar(&opts.Expiry, "expiry", rootedit.DefaultExpiry, "how `long` it is good")
	return cmd
}

func newTrustDiscardCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "discard",
		Short: "Throw the draft away",
		Long:  "Throw the draft of the next trust root away, with its signatures. Keys that were\nmade for it stay in trust/keys.",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return runDiscard(o) },
	}
}

// completeRoles offers roles as the first argument.
func completeRoles(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for _, r := range release.AllRoles() {
		names = append(names, string(r))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// draftEdit is one change of the draft.
type draftEdit struct {
	w    *workspace
	keys *keyring.Keyring
	// root is the draft's, to be changed.
	root *release.Root
	// epoch is that of the newest root.
	epoch uint64
}

func (e *draftEdit) raiseEpoch() string {
	// Once per version: twice says nothing more.
	if e.root.Epoch == e.epoch {
		rootedit.RaiseEpoch(e.root)
	}
	return fmt.Sprintf("epoch %d", e.root.Epoch)
}

func (e *draftEdit) rotate(opts *rotateOptions, role release.RoleName, named []string) (string, error) {
	prefix := ""
	if len(named) > 0 {
		prefix = named[0]
	}
	// Before a key is made for nothing.
	if _, err := rootedit.FindKey(e.root, role, prefix); err != nil {
		return "", err
	}
	id, key, err := resolveKey(e.w, e.keys, e.root, role, opts.To)
	if err != nil {
		return "", err
	}
	old, err := rootedit.Replace(e.root, role, prefix, id, key)
	text := fmt.Sprintf("%s: key %.12s for %.12s", role, id, old)
	if err == nil && opts.RaiseEpoch {
		text += ", " + e.raiseEpoch()
	}
	return text, err
}

func (o *options) editRole(name string, change func(*draftEdit, release.RoleName) (string, error)) error {
	role, err := rootedit.ParseRole(name)
	if err != nil {
		return usageError{err}
	}
	return o.editDraft(func(e *draftEdit) (string, error) { return change(e, role) })
}

// editDraft changes the draft, or begins one. Signatures that it had are of
// something else then, and go.
func (o *options) editDraft(change func(*draftEdit) (string, error)) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	keys, err := o.keys()
	if err != nil {
		return err
	}
	unlock, err := w.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	t, _, err := w.Trust()
	if err != nil {
		return err
	}
	if err := w.Settle(t); err != nil {
		return err
	}
	d, opened, err := w.Draft(t)
	e := &draftEdit{w: w, keys: keys, epoch: t.Root().Epoch}
	signed := 0
	switch {
	case errors.Is(err, repo.ErrNoDraft):
		d, e.root = &repo.Draft{Base: t.Digest()}, rootedit.Next(t.Root(), o.Now())
	case err != nil:
		return err
	default:
		e.root = rootedit.Clone(&opened.Root)
		signed = len(opened.By.Signed) + len(opened.Own.Signed)
	}
	text, err := change(e)
	if err != nil {
		return err
	}
	if d.Envelope, _, err = release.Seal(fleet.TypeRoot, e.root); err != nil {
		return err
	}
	d.Changes = append(d.Changes, repo.DraftChange{Time: o.Now().UTC(), Operator: o.whoAmI(w), Change: text})
	// What nobody could take is not written.
	if opened, err = t.OpenDraft(d.Envelope); err != nil {
		return err
	}
	if err := w.WriteDraft(d); err != nil {
		return err
	}
	res := draftOf(t, d, opened)
	p := o.printer()
	if p.JSON() {
		return p.Value(res)
	}
	res.show(p)
	if signed > 0 {
		p.Printf("It was signed before this change: those signatures are gone.\n")
	}
	p.Printf("Nothing counts yet. Sign it with \"fleetctl trust sign\", or change more first.\n")
	return nil
}

// whoAmI names the operator for what people read.
func (o *options) whoAmI(w *workspace) string {
	if id, err := identity.Whose(o.identityDir(w.fleet.ID())); err == nil {
		return id.Name
	}
	return userName(o.Getenv)
}

func runDiscard(o *options) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	unlock, err := w.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := w.RemoveDraft(); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			Discarded bool `json:"discarded"`
		}{true})
	}
	p.Printf("There is no draft of a trust root any longer.\n")
	return nil
}
