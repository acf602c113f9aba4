package fleetctl

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/rootedit"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const trustHelp = `The trust root names the keys that count, by role, and how many of them have to
sign. Each version is signed by enough root keys of the one before and of its own.

A change is made in a draft, trust/draft.json, which collects signatures. Commit
it; who holds another root key gets it with git and signs it on their own machine:

  fleetctl trust rotate release     changes the draft; nothing counts yet
  fleetctl trust sign               adds the signatures of the keys that you hold

With enough signatures the draft becomes the next version, and the next publish
hands it over ("fleetctl trust publish" at once). Hosts walk from version to
version, however long they slept.`

func newTrustCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Show and change which keys count",
		Long:  trustHelp,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newTrustShowCommand(o), newTrustKeyCommand(o), newTrustAddKeyCommand(o), newTrustRemoveKeyCommand(o),
		newTrustThresholdCommand(o), newTrustRotateCommand(o), newTrustRenewCommand(o), newTrustDiscardCommand(o),
		newTrustSignCommand(o), newTrustPublishCommand(o), newTrustCACommand(o),
	)
	return cmd
}

func newTrustShowCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show roles, thresholds and keys, and where each key is",
		Long: `Show the newest trust root: its roles, thresholds and keys, and where each key is
as far as that is known here: in a file of trust/keys, in your ssh-agent, or
elsewhere. Then the certificate authorities. A draft is shown with the signatures that it has and lacks.

JSON: {version, epoch, issued, expires, digest, pin, roles: [{role, threshold,
keys: [{id, scheme, where}]}], cas: [{digest, expires, use, listed}], draft: {version, changes, differences, old, own,
complete}, warnings}; old and own are {signed, want}.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return runTrustShow(o) },
	}
}

// trustResult is the JSON form of trust show.
type trustResult struct {
	Version uint64       `json:"version"`
	Epoch   uint64       `json:"epoch"`
	Issued  time.Time    `json:"issued"`
	Expires time.Time    `json:"expires"`
	Digest  fleet.Digest `json:"digest"`
	// Pin is the digest of the first trust root, which join strings carry.
	Pin      fleet.Digest `json:"pin"`
	Roles    []roleResult `json:"roles"`
	CAs      []caResult   `json:"cas"`
	Draft    *draftResult `json:"draft,omitempty"`
	Warnings []string     `json:"warnings"`
}

type roleResult struct {
	Role      release.RoleName `json:"role"`
	Threshold int              `json:"threshold"`
	Keys      []keyResult      `json:"keys"`
}

type keyResult struct {
	ID     string `json:"id"`
	Scheme string `json:"scheme"`
	// Where it is; empty where that is not known.
	Where string `json:"where"`
}

// draftResult is the JSON form of a draft.
type draftResult struct {
	Version     uint64             `json:"version"`
	Changes     []repo.DraftChange `json:"changes"`
	Differences []string           `json:"differences"`
	// Old counts signatures of the root before, Own those of its own root keys.
	Old      tallyResult `json:"old"`
	Own      tallyResult `json:"own"`
	Complete bool        `json:"complete"`
}

type tallyResult struct {
	Signed []string `json:"signed"`
	Want   int      `json:"want"`
}

func tallyOf(t release.Tally) tallyResult {
	return tallyResult{Signed: append([]string{}, t.Signed...), Want: t.Want}
}

func (t tallyResult) String() string { return fmt.Sprintf("%d of %d", len(t.Signed), t.Want) }

func draftOf(t *release.Trust, d *repo.Draft, opened *release.Draft) *draftResult {
	return &draftResult{
		Version: opened.Root.Version, Changes: append([]repo.DraftChange{}, d.Changes...),
		Differences: rootedit.Differences(t.Root(), &opened.Root),
		Old:         tallyOf(opened.By), Own: tallyOf(opened.Own), Complete: opened.Complete(),
	}
}

func runTrustShow(o *options) error {
	w, err := o.open()
	if err != nil {
		return err
	}
	t, pin, err := w.Trust()
	if err != nil {
		return err
	}
	// Without identities the keys' files stay closed; the rest can be shown.
	keys, err := o.keys()
	if err != nil && !errors.Is(err, keyring.ErrNoIdentity) {
		return err
	}
	where, err := placesOfKeys(w, keys)
	if err != nil {
		return err
	}
	root := t.Root()
	res := trustResult{
		Version: root.Version, Epoch: root.Epoch, Issued: root.Issued, Expires: root.Expires, Digest: t.Digest(), Pin: pin,
		Warnings: []string{},
	}
	for _, name := range release.AllRoles() {
		role, ok := root.Roles[name]
		if !ok {
			continue
		}
		r := roleResult{Role: name, Threshold: role.Threshold, Keys: []keyResult{}}
		for _, id := range role.KeyIDs {
			r.Keys = append(r.Keys, keyResult{ID: id, Scheme: root.Keys[id].Scheme, Where: where[id]})
		}
		res.Roles = append(res.Roles, r)
	}
	cas, err := w.Authorities()
	if err != nil {
		return err
	}
	res.CAs = casOf(t, cas)
	if text := caWarning(cas, o.Now()); text != "" {
		res.Warnings = append(res.Warnings, text)
	}
	d, opened, err := w.Draft(t)
	switch {
	case err == nil:
		res.Draft = draftOf(t, d, opened)
	case !errors.Is(err, repo.ErrNoDraft):
		res.Warnings = append(res.Warnings, err.Error())
	}
	if text := expiryWarning(root, o.Now()); text != "" {
		res.Warnings = append(res.Warnings, text)
	}
	p := o.printer()
	if p.JSON() {
		return p.Value(res)
	}
	res.show(p, o.Now())
	return nil
}

// expiryWarning is empty while there is time.
func expiryWarning(r *release.Root, now time.Time) string {
	switch left := r.Expires.Sub(now); {
	case left <= 0:
		return fmt.Sprintf("the trust root expired on %s: hosts refuse everything new; fleetctl trust renew", r.Expires.UTC().Format(time.DateOnly))
	case left < rootedit.WarnBefore:
		return fmt.Sprintf("the trust root expires in %d days: fleetctl trust renew", int(left.Hours()/24))
	}
	return ""
}

func (res *trustResult) show(p *ui.Printer, now time.Time) {
	left := "expired"
	if d := res.Expires.Sub(now); d > 0 {
		left = "in " + ui.Span(d)
	}
	p.Printf("version %d  epoch %d  expires %s (%s)\ndigest  %s\npin     %s\n\n", res.Version, res.Epoch, res.Expires.UTC().Format(time.DateOnly), left, res.Digest, res.Pin)
	var rows [][]string
	for _, r := range res.Roles {
		for i, k := range r.Keys {
			row := []string{string(r.Role), fmt.Sprintf("%d of %d", r.Threshold, len(r.Keys)), k.ID[:12], k.Scheme, k.Where}
			if i > 0 {
				row[0], row[1] = "", ""
			}
			if k.Where == "" {
				row[4] = p.Paint(ui.ToneDim, "not known here")
			}
			rows = append(rows, row)
		}
	}
	p.Table([]string{"ROLE", "THRESHOLD", "KEY", "SCHEME", "WHERE"}, rows)
	showCAs(p, res.CAs)
	if res.Draft != nil {
		p.Printf("\n")
		res.Draft.show(p)
	}
	for _, w := range res.Warnings {
		p.Printf("%s\n", p.Paint(ui.ToneWarn, "warning: "+w))
	}
}

func (d *draftResult) show(p *ui.Printer) {
	p.Printf("Draft of version %d:\n", d.Version)
	for _, line := range d.Differences {
		p.Printf("  %s\n", line)
	}
	p.Printf("Signatures: %s of the root before, %s of its own.\n", d.Old, d.Own)
}

// placesOfKeys says by key id where keys are, as far as that is known here.
func placesOfKeys(w *workspace, keys *keyring.Keyring) (map[string]string, error) {
	where := map[string]string{}
	files, err := w.KeyFiles()
	if err != nil {
		return nil, err
	}
	notes, err := w.KeyNotes()
	if err != nil {
		return nil, err
	}
	for id, name := range notes {
		place := "trust/keys/" + name + ".pub: the key itself is elsewhere"
		if slices.Contains(files, name+".age") {
			place = "trust/keys/" + name + ".age"
		}
		where[id] = place
	}
	if keys == nil {
		return where, nil
	}
	for _, name := range files {
		if id, err := w.KeyNote(strings.TrimSuffix(name, ".age")); err == nil && id != "" {
			continue
		}
		if id, err := w.KeyIDOf(keys, name); err == nil {
			where[id] = "trust/keys/" + name
		}
	}
	agents, err := keys.AgentKeys()
	if err != nil {
		return where, nil //nolint:nilerr // An agent that can't be asked knows nothing; signing will say why.
	}
	for _, k := range agents {
		where[k.ID] = "ssh-agent " + strings.TrimSpace(k.Fingerprint+" "+k.Comment)
	}
	return where, nil
}

// freeKeyName is the first of ROLE-1, ROLE-2, … that no key has.
func freeKeyName(w *workspace, role release.RoleName) (string, error) {
	files, err := w.KeyFiles()
	if err != nil {
		return "", err
	}
	notes, err := w.KeyNotes()
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, f := range files {
		taken[strings.TrimSuffix(f, ".age")] = true
	}
	for _, name := range notes {
		taken[name] = true
	}
	for n := 1; ; n++ {
		if name := string(role) + "-" + strconv.Itoa(n); !taken[name] {
			return name, nil
		}
	}
}
