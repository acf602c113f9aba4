package fleetctl

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

type trustSignOptions struct {
	Yes bool
}

func newTrustSignCommand(o *options) *cobra.Command {
	opts := &trustSignOptions{}
	cmd := &cobra.Command{
		Use:   "sign [FILE]",
		Short: "Sign the draft of the next trust root",
		Long: `Sign the draft of the next trust root with all root keys that you hold, of the
newest trust root and of the draft's own, after showing what it changes. With
enough signatures it becomes the next version.

FILE is a draft outside of the repository, as somebody sent it: it is signed in
its place, and counts once it is trust/draft.json.

JSON: as "draft" of trust show, with added (signatures), root_version.`,
		Example: `  fleetctl trust sign
  fleetctl trust sign --key ssh-agent:SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpKZIDTMczCvj3tD2s`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return runTrustSign(o, opts, args) },
	}
	cmd.Flags().BoolVarP(&opts.Yes, "yes", "y", false, "sign without asking")
	return cmd
}

// trustSignResult is the JSON form of trust sign.
type trustSignResult struct {
	draftResult
	// Added are the ids of the keys that signed now.
	Added []string `json:"added"`
	// RootVersion is that of the trust root that counts now.
	RootVersion uint64 `json:"root_version"`
}

func runTrustSign(o *options, opts *trustSignOptions, args []string) error {
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
	d, opened, err := readDraft(w, t, args)
	if err != nil {
		return err
	}
	p := o.printer()
	if !p.JSON() {
		draftOf(t, d, opened).show(p)
	}
	added, err := o.signDraft(w, keys, t, d, opened, opts.Yes)
	if err != nil {
		return err
	}
	if opened, err = t.OpenDraft(d.Envelope); err != nil {
		return err
	}
	version := t.Root().Version
	switch {
	case len(args) > 0:
		data, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			return err
		}
		if err := atomicfile.WriteFile(args[0], append(data, '\n'), 0o644); err != nil {
			return err
		}
	case opened.Complete():
		next, err := w.Enact(t, d, o.Now())
		if err != nil {
			return err
		}
		version = next.Root().Version
	default:
		if err := w.WriteDraft(d); err != nil {
			return err
		}
	}
	res := trustSignResult{draftResult: *draftOf(t, d, opened), Added: added, RootVersion: version}
	if p.JSON() {
		return p.Value(res)
	}
	res.explain(p, args)
	return nil
}

func readDraft(w *workspace, t *release.Trust, args []string) (*repo.Draft, *release.Draft, error) {
	if len(args) == 0 {
		return w.Draft(t)
	}
	data, err := readSmall(args[0])
	if err != nil {
		return nil, nil, err
	}
	d, opened, err := repo.ParseDraft(t, data)
	if err != nil {
		return nil, nil, ui.WithHint(fmt.Errorf("reading %s: %w", args[0], err), ui.HintOf(err))
	}
	return d, opened, nil
}

// signDraft adds the signatures of all root keys that are here and asks before.
// A draft that needs no more is not signed any further.
func (o *options) signDraft(w *workspace, keys repo.Keys, t *release.Trust, d *repo.Draft, opened *release.Draft, yes bool) ([]string, error) {
	if opened.Complete() {
		return []string{}, nil
	}
	want := map[string]bool{}
	for _, r := range []*release.Root{t.Root(), &opened.Root} {
		for _, id := range r.Roles[release.RoleRoot].KeyIDs {
			want[id] = true
		}
	}
	for _, id := range slices.Concat(opened.By.Signed, opened.Own.Signed) {
		delete(want, id)
	}
	signers, err := w.AllSigners(slices.Sorted(maps.Keys(want)), keys)
	if len(signers) == 0 {
		none := fmt.Errorf("%w: no root key that has not signed yet can be used here", repo.ErrNoKey)
		if err != nil {
			return nil, ui.WithHint(fmt.Errorf("%w: %w", none, err), ui.HintOf(err))
		}
		return nil, ui.WithHint(none, "commit trust/draft.json, and have who holds another root key sign it there")
	}
	if err := o.confirm(fmt.Sprintf("Sign with %s?", plural(len(signers), "key")), yes); err != nil {
		return nil, err
	}
	if d.Envelope, err = release.AddSignatures(fleet.TypeRoot, d.Envelope, signers...); err != nil {
		return nil, err
	}
	added := []string{}
	for _, s := range signers {
		added = append(added, s.KeyID())
	}
	return added, nil
}

func (res *trustSignResult) explain(p *ui.Printer, args []string) {
	p.Printf("%s added: %s of the root before, %s of its own.\n", plural(len(res.Added), "signature"), res.Old, res.Own)
	switch {
	case len(args) > 0 && res.Complete:
		p.Printf("That is enough: put it in the place of trust/draft.json and run \"fleetctl trust sign\" there.\n")
	case len(args) > 0:
		p.Printf("More are needed.\n")
	case res.Complete:
		p.Printf("It is the trust root now, version %d. Commit trust/; \"fleetctl publish\" hands it over, \"fleetctl trust publish\" at once.\n"+
			"Make a new kit too (fleetctl kit): a coordinator that lost its store starts from it.\n", res.RootVersion)
	default:
		p.Printf("More are needed: commit trust/draft.json, and have who holds another root key run \"fleetctl trust sign\".\n")
	}
}

func newTrustPublishCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "publish",
		Short: "Hand the trust root over to the coordinator",
		Long:  "Hand over the trust roots that the coordinator lacks; hosts follow at once. The next\npublish does the same.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runTrustPublish(cmd.Context(), o) },
	}
}

func runTrustPublish(ctx context.Context, o *options) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	roots, err := s.Roots()
	if err != nil {
		return err
	}
	version, err := s.AddTrustRoots(ctx, roots)
	if err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			Version uint64 `json:"version"`
		}{version})
	}
	p.Printf("The coordinator has trust root %d.\nWhat keys signed that are no longer in it has to be signed again: fleetctl publish --refresh.\n", version)
	return nil
}
