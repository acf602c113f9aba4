package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const signHelp = `Sign a release that was staged (fleetctl publish --stage), or one that fewer people
signed than have to, after showing what it changes on each machine. With enough
signatures it is committed: hosts take it as any other. One that is committed
already needs nothing: who got no answer runs this again.

Who staged it is trusted with one thing: which source each machine gets. What is
signed besides is made here, out of this checkout: numbers, where a host may go
back to, probes, policy and secrets. So this checkout has to be of the revision
that was staged, and fleet.yaml has to say the same; and the coordinator has to
have each source that is named. CHECKED says how a source compares with the same
one packed here: "differs" wants an explanation; "unchecked" can't be made here.

JSON: {release, revision, staged_by, signed_by, waiting, committed, changes:
[{machine, profile, before, after, source_before, source_after, checked, secrets,
settings}]}`

type signOptions struct {
	Yes, AnyRevision bool
}

func newSignCommand(o *options) *cobra.Command {
	opts := &signOptions{}
	cmd := &cobra.Command{
		Use:   "sign RELEASE",
		Short: "Sign a staged release, after seeing what it changes",
		Long:  signHelp,
		Example: `  fleetctl releases --waiting
  fleetctl sign r20260301-120000-a1b2c3
  fleetctl sign r20260301-120000-a1b2c3 --key ssh-agent:SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpKZIDTMczCvj3tD2s`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeProposals,
		RunE:              func(cmd *cobra.Command, args []string) error { return runSign(cmd.Context(), o, opts, args[0]) },
	}
	f := cmd.Flags()
	f.BoolVarP(&opts.Yes, "yes", "y", false, "sign without asking")
	f.BoolVar(&opts.AnyRevision, "any-revision", false, "sign what was staged from another revision than this checkout's")
	return cmd
}

// completeProposals offers the releases that wait.
func (o *options) completeProposals(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := o.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	list, err := s.Proposals(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, p := range list {
		names = append(names, string(p.Release))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// signResult is the JSON form of sign.
type signResult struct {
	Release  fleet.ReleaseID `json:"release"`
	Revision string          `json:"revision"`
	StagedBy string          `json:"staged_by"`
	SignedBy []string        `json:"signed_by"`
	// Waiting says that more signatures are needed.
	Waiting   bool           `json:"waiting"`
	Committed bool           `json:"committed"`
	Changes   []changeResult `json:"changes"`
}

type changeResult struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	// Before and After are numbers; Before is empty where there was nothing.
	Before       string                `json:"before"`
	After        string                `json:"after"`
	SourceBefore *fleet.Source         `json:"source_before,omitempty"`
	SourceAfter  fleet.Source          `json:"source_after"`
	Checked      publisher.SourceCheck `json:"checked"`
	Secrets      []string              `json:"secrets"`
	Settings     []string              `json:"settings"`
}

func runSign(ctx context.Context, o *options, opts *signOptions, name string) error {
	id, err := fleet.ParseReleaseID(name)
	if err != nil {
		return usageError{err}
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	targets, _, err := selectTargets(s.workspace, nil)
	if err != nil {
		return err
	}
	unlock, err := s.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	rep := &reporter{progress: o.progress()}
	defer rep.progress.Done()
	pub := s.publisher(o, rep)
	r, err := pub.Review(ctx, publisher.SignRequest{
		Release: id, Targets: targets, Inventory: s.inventory(), Revision: revision(ctx, s.Dir()), AnyRevision: opts.AnyRevision,
	})
	p := o.printer()
	if errors.Is(err, publisher.ErrCommitted) {
		rep.progress.Done()
		if p.JSON() {
			return p.Value(signResult{Release: id, SignedBy: []string{}, Committed: true, Changes: []changeResult{}})
		}
		p.Printf("Release %s is committed already: there is nothing to sign. Commit releases/ where it changed.\n", id)
		return nil
	}
	if err != nil {
		return err
	}
	rep.progress.Done()
	res := signResult{
		Release: id, Revision: r.Proposal.Revision, StagedBy: "operator/" + r.Proposal.Operator,
		SignedBy: append([]string{}, r.Signers...), Changes: []changeResult{},
	}
	for _, c := range r.Changes {
		res.Changes = append(res.Changes, resultOf(c))
	}
	if !p.JSON() {
		showReview(p, r, o.Now())
	}
	if err := o.confirm(fmt.Sprintf("Sign release %s for %s?", id, generationsText(afterOf(r.Changes))), opts.Yes); err != nil {
		return err
	}
	done, err := pub.Sign(ctx, r)
	if err != nil {
		return err
	}
	rep.progress.Done()
	res.Waiting, res.Committed = done.Waiting, !done.Waiting
	if p.JSON() {
		return p.Value(res)
	}
	if done.Waiting {
		p.Printf("Signed. More signatures are needed: have who holds another release key run \"fleetctl sign %s\".\nCommit releases/.\n", id)
		return nil
	}
	p.Printf("Signed and committed release %s. Commit releases/, secrets/ and hosts/ where they changed; follow it with \"fleetctl status\".\n", id)
	return nil
}

func afterOf(changes []publisher.Change) (list []publisher.Generation) {
	for _, c := range changes {
		list = append(list, c.After)
	}
	return list
}

func resultOf(c publisher.Change) changeResult {
	out := changeResult{
		Machine: c.Machine, Profile: c.Profile, After: c.After.Number.String(), SourceAfter: c.After.Source, Checked: c.Checked,
		Secrets: append([]string{}, c.Secrets...), Settings: append([]string{}, c.Settings...),
	}
	if !c.Before.Number.IsZero() {
		out.Before, out.SourceBefore = c.Before.Number.String(), &c.Before.Source
	}
	return out
}

func showReview(p *ui.Printer, r *publisher.Review, now time.Time) {
	n := r.Proposal
	p.Printf("release   %s\nstaged    by operator/%s, %s\nrevision  %s\n\n", n.Release, n.Operator, ui.Ago(now, n.Created), dash(n.Revision))
	var rows [][]string
	for _, c := range r.Changes {
		before, from := "-", "nothing"
		if !c.Before.Number.IsZero() {
			before, from = c.Before.Number.String(), sourceText(c.Before.Source)
		}
		to := sourceText(c.After.Source)
		if from == to {
			to = "the same"
		}
		checked := string(c.Checked)
		if c.Checked == publisher.SourceDiffers {
			checked = p.Paint(ui.ToneBad, checked)
		}
		var other []string
		if len(c.Secrets) > 0 {
			other = append(other, "new secrets: "+strings.Join(c.Secrets, " "))
		}
		other = append(other, c.Settings...)
		rows = append(rows, []string{string(c.Machine), string(c.Profile), before + " → " + c.After.Number.String(), from, to, checked, dash(strings.Join(other, "; "))})
	}
	p.Table([]string{"MACHINE", "PROFILE", "NUMBER", "NOW", "THEN", "CHECKED", "ALSO"}, rows)
}

// showWaiting lists releases that wait for signatures.
func showWaiting(ctx context.Context, o *options, s *session) error {
	list, err := s.Proposals(ctx)
	if err != nil {
		return err
	}
	type waiting struct {
		Release  fleet.ReleaseID `json:"release"`
		Staged   time.Time       `json:"staged"`
		Actor    string          `json:"actor"`
		Revision string          `json:"revision"`
		Count    int             `json:"generations"`
	}
	out := struct {
		Waiting []waiting `json:"waiting"`
	}{Waiting: []waiting{}}
	var rows [][]string
	for _, w := range list {
		out.Waiting = append(out.Waiting, waiting{w.Release, w.Time.UTC(), w.Actor, w.Revision, w.Count})
		rows = append(rows, []string{string(w.Release), w.Time.UTC().Format(time.DateTime), w.Actor, dash(shortRevision(w.Revision)), fmt.Sprint(w.Count)})
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(out)
	}
	p.Table([]string{"RELEASE", "STAGED (UTC)", "BY", "REVISION", "GENERATIONS"}, rows)
	return nil
}
