package fleetctl

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/bootstrap"
	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/rootedit"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const trustCAHelp = `Replace the certificate authority that host, operator and coordinator certificates
are of, without anybody enrolling again. The trust root lists the CAs that count,
so that hosts know the next one before anything is of it:

  fleetctl trust ca add        makes the next CA; the draft lists both
  fleetctl trust sign          then publish it (trust publish)
  fleetctl trust ca use        the next CA issues from now on
  fleetctl kit                 give it to the coordinator, and restart that

Hosts and operators now get certificates of the new CA as theirs are renewed (a host's
within four days; a sleeper's when it is awake). The coordinator still shows one of
the old, so that those who slept through it all find it. When they came, or you wait
no longer:

  fleetctl trust ca drop       the draft lists the new CA alone
  fleetctl trust sign
  fleetctl kit                 give it to the coordinator, and restart that: hosts
                               that still have a certificate of the old CA renew now
  fleetctl trust ca forget     says who has one yet; else nothing of the old counts
  fleetctl kit                 give it to the coordinator, and restart that

Commit trust/ after each step. docs/runbooks.md, "The CA expires or leaked".`

func newTrustCACommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Replace the certificate authority",
		Long:  trustCAHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCAAddCommand(o), newCAUseCommand(o), newCADropCommand(o), newCAForgetCommand(o))
	return cmd
}

// caResult is the JSON form of a CA.
type caResult struct {
	Digest  fleet.Digest `json:"digest"`
	Expires time.Time    `json:"expires"`
	// Use is what for: "issues", "next" or "before".
	Use string `json:"use"`
	// Listed says whether the newest trust root lists it; a root that lists none
	// leaves hosts with the one that their join string pinned.
	Listed bool `json:"listed"`
}

func casOf(t *release.Trust, a repo.Authorities) []caResult {
	out := []caResult{}
	for use, ca := range map[string]*x509.Certificate{"issues": a.Now, "next": a.Next, "before": a.Before} {
		if ca != nil {
			out = append(out, caResult{fleet.DigestOf(ca.Raw), ca.NotAfter.UTC(), use, t.ListsCA(ca)})
		}
	}
	order := []string{"issues", "next", "before"}
	slices.SortFunc(out, func(a, b caResult) int { return slices.Index(order, a.Use) - slices.Index(order, b.Use) })
	return out
}

func showCAs(p *ui.Printer, cas []caResult) {
	p.Printf("\n")
	var rows [][]string
	for _, c := range cas {
		listed := "no"
		if c.Listed {
			listed = "yes"
		}
		rows = append(rows, []string{c.Digest.Short(), c.Use, listed, c.Expires.Format(time.DateOnly)})
	}
	p.Table([]string{"CA", "USE", "LISTED", "ENDS"}, rows)
}

// warnCABefore is how long before its end a CA is warned about: replacing it takes
// as long as the longest sleeper.
const warnCABefore = 365 * 24 * time.Hour

func caWarning(a repo.Authorities, now time.Time) string {
	left := a.Now.NotAfter.Sub(now)
	if left >= warnCABefore || a.Next != nil {
		return ""
	}
	return fmt.Sprintf("the CA ends on %s, and every certificate with it: fleetctl trust ca --help", a.Now.NotAfter.UTC().Format(time.DateOnly))
}

func newCAAddCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "add",
		Short: "Make the next CA and list it, in the draft",
		Long: `Make the CA that is to come, trust/ca-next.crt with its key encrypted to the
repository's recipients, and list it beside the one that issues, in the draft of the
trust root. Nothing is of it before "fleetctl trust ca use".`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return o.editDraft(func(e *draftEdit) (string, error) { return e.addCA(o.Now()) })
		},
	}
}

func (e *draftEdit) addCA(now time.Time) (string, error) {
	a, err := e.w.Authorities()
	if err != nil {
		return "", err
	}
	if a.Before != nil {
		return "", ui.WithHint(errors.New("a CA is being replaced already"), "end that first: fleetctl trust ca drop, then forget")
	}
	// One that an interrupted add made, or whose draft was discarded, is as good.
	if a.Next == nil {
		if a.Next, err = makeNextCA(e.w, now); err != nil {
			return "", err
		}
	}
	rootedit.SetCAs(e.root, a.Now.Raw, a.Next.Raw)
	return "the next CA, " + fleet.DigestOf(a.Next.Raw).Short(), nil
}

func makeNextCA(w *workspace, now time.Time) (*x509.Certificate, error) {
	list, err := w.Recipients()
	if err != nil {
		return nil, err
	}
	recipients, err := keyring.ParseRecipients(list)
	if err != nil {
		return nil, err
	}
	ca, sealed, err := bootstrap.NewCA(w.fleet.ID(), now, recipients...)
	if err != nil {
		return nil, err
	}
	return ca.Cert, w.WriteNextCA(ca.Cert, sealed)
}

func newCAUseCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "use",
		Short: "Have the next CA issue from now on",
		Long: `Put the next CA in the place of the one that issues, which stays as the one before.
The trust root has to list it by now. It counts once the coordinator has a kit with
it: "fleetctl kit".`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runCAUse(o) },
	}
}

// changeCAs runs a change of the repository's CAs, and shows them as they are then.
func (o *options) changeCAs(change func(*workspace, *release.Trust, repo.Authorities) (then string, err error)) error {
	w, err := o.open()
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
	a, err := w.Authorities()
	if err != nil {
		return err
	}
	then, err := change(w, t, a)
	if err != nil {
		return err
	}
	if a, err = w.Authorities(); err != nil {
		return err
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(struct {
			CAs []caResult `json:"cas"`
		}{casOf(t, a)})
	}
	showCAs(p, casOf(t, a))
	p.Printf("%s\n", then)
	return nil
}

const afterKit = "Commit trust/, make the kit (fleetctl kit), give it to the coordinator and restart that."

func runCAUse(o *options) error {
	return o.changeCAs(func(w *workspace, t *release.Trust, a repo.Authorities) (string, error) {
		switch {
		case a.Next == nil && a.Before != nil:
			// Whoever was interrupted in the middle may ask again.
		case a.Next == nil:
			return "", ui.WithHint(errors.New("there is no next CA"), "make one: fleetctl trust ca add")
		case !t.ListsCA(a.Next):
			return "", ui.WithHint(fmt.Errorf("trust root %d does not list the next CA: hosts would refuse what it issues", t.Root().Version),
				"fleetctl trust ca add, fleetctl trust sign and fleetctl trust publish come first")
		default:
			if err := w.UseNextCA(); err != nil {
				return "", err
			}
		}
		return afterKit, nil
	})
}

func newCADropCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "drop",
		Short: "List the CA that issues alone, in the draft",
		Long: `List the CA that issues alone, in the draft of the trust root. The next kit has the
coordinator show a certificate of it, so that who did not come since "trust ca add"
has to enrol again: see who is away with "fleetctl status". Hosts with a certificate
of the other CA renew as soon as they have the root. A next CA that was not used yet
is thrown away.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runCADrop(o) },
	}
}

func runCADrop(o *options) error {
	if err := o.editDraft(func(e *draftEdit) (string, error) {
		a, err := e.w.Authorities()
		if err != nil {
			return "", err
		}
		if a.Next == nil && a.Before == nil {
			return "", ui.WithHint(errors.New("there is one CA only"), "see fleetctl trust show")
		}
		rootedit.SetCAs(e.root, a.Now.Raw)
		return "only the CA " + fleet.DigestOf(a.Now.Raw).Short(), nil
	}); err != nil {
		return err
	}
	w, err := o.open()
	if err != nil {
		return err
	}
	if err := w.DropOtherCAs(); err != nil {
		return err
	}
	if p := o.printer(); !p.JSON() {
		p.Printf("Once it is signed: %s\n", afterKit)
	}
	return nil
}

func newCAForgetCommand(o *options) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget",
		Short: "Accept nothing of the CA before any more",
		Long: `Remove the CA before, so that the next kit accepts nothing of it. Hosts whose
certificate is of it would have to enrol again, and operators would have to be added
again: where there are any they are named, and nothing is done without --yes.
Operators renew with any command.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCAForget(cmd.Context(), o, yes) },
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it whoever has to enrol again, and without the coordinator if need be")
	return cmd
}

func runCAForget(ctx context.Context, o *options, yes bool) error {
	return o.changeCAs(func(w *workspace, t *release.Trust, a repo.Authorities) (string, error) {
		switch {
		case a.Before == nil:
			return "", ui.WithHint(errors.New("there is no CA from before"), "see fleetctl trust show")
		case t.ListsCA(a.Before) || a.BeforeServes:
			return "", ui.WithHint(fmt.Errorf("trust root %d still lists the CA before", t.Root().Version),
				"fleetctl trust ca drop, fleetctl trust sign and a new kit for the coordinator come first")
		}
		if !yes {
			if err := o.noneOf(ctx, a.Before); err != nil {
				return "", err
			}
		}
		return afterKit, w.ForgetCABefore()
	})
}

// noneOf says whether no host's certificate is of a CA any more, and no operator's.
func (o *options) noneOf(ctx context.Context, ca *x509.Certificate) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	hosts, err := s.Hosts(ctx, "")
	if err != nil {
		return err
	}
	operators, err := s.Operators(ctx)
	if err != nil {
		return err
	}
	old := hex.EncodeToString(ca.SubjectKeyId)
	var left, people []string
	for _, h := range hosts {
		if h.Enrolled && h.Banned == "" && (h.IdentityCA == old || h.IdentityCA == "") {
			left = append(left, h.Machine)
		}
	}
	for _, p := range operators {
		// Who asks has renewed on the way here, and called with the one before.
		renewed := string(p.Name) == s.operator && hex.EncodeToString(s.cert.Leaf.AuthorityKeyId) != old
		if !renewed && hasOnly(p, s.operators, old, o.Now()) {
			people = append(people, string(p.Name))
		}
	}
	switch {
	case len(left) == 0 && len(people) == 0:
		return nil
	case len(people) == 0:
		return ui.WithHint(fmt.Errorf("%d hosts have a certificate of the CA before: %s", len(left), plainText(someOf(left))),
			"wait until they were awake, or have them enrol again afterwards: --yes")
	case len(left) == 0:
		return ui.WithHint(fmt.Errorf("operators have a certificate of the CA before: %s", plainText(someOf(people))),
			"any command of theirs renews it, with the newest trust/; or add them again afterwards (fleetctl operator add): --yes")
	}
	return ui.WithHint(fmt.Errorf("%d hosts have a certificate of the CA before: %s; and so have the operators %s", len(left), plainText(someOf(left)), plainText(someOf(people))),
		"hosts renew once they are awake, operators with any command that has the newest trust/; or have them enrol, and add them, again afterwards: --yes")
}

// hasOnly says whether the only certificate that an operator is known to have is of
// the CA with the key id old: that of the newest call, or of the repository's record,
// which whoever was added anew takes from there.
func hasOnly(p client.OperatorStatus, recorded []repo.OperatorRecord, old string, now time.Time) bool {
	if p.Removed {
		return false
	}
	var leaf *x509.Certificate
	if i := slices.IndexFunc(recorded, func(r repo.OperatorRecord) bool { return r.Name == p.Name }); i >= 0 {
		leaf = recorded[i].Leaf()
	}
	if leaf != nil && hex.EncodeToString(leaf.AuthorityKeyId) != old {
		return false
	}
	if p.LastSeen.IsZero() {
		return leaf != nil && now.Before(leaf.NotAfter)
	}
	return (p.CA == old || p.CA == "") && now.Before(p.Expires)
}

const maxNamedHosts = 10

func someOf(names []string) string {
	shown := names[:min(len(names), maxNamedHosts)]
	text := fmt.Sprint(shown)
	if more := len(names) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
