package bootstrap

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// CAs are those of a kit.
type CAs struct {
	// Issuing issues certificates, Serving the coordinator's own.
	Issuing, Serving *pki.CA
	// Others are accepted, too.
	Others []*x509.Certificate
}

// OpenCAs reads the repository's CAs with their keys.
func OpenCAs(r *repo.Repository, o repo.Opener) (CAs, error) {
	a, err := r.Authorities()
	if err != nil {
		return CAs{}, err
	}
	var cas CAs
	if cas.Issuing, err = r.FullCA(o); err != nil {
		return CAs{}, err
	}
	cas.Serving, err = r.ServingCA(o)
	cas.Others = a.All()[1:]
	return cas, err
}

// listed says whether hosts would take what the CAs issue.
func (cas CAs) listed(t *release.Trust) error {
	for _, ca := range []*pki.CA{cas.Issuing, cas.Serving} {
		if len(t.CAs()) > 0 && !t.ListsCA(ca.Cert) {
			return ui.WithHint(fmt.Errorf("trust root %d does not list the CA %s: hosts would refuse what it issues", t.Root().Version, fleet.DigestOf(ca.Cert.Raw).Short()),
				`see "fleetctl trust show"; a root that lists it is made by "fleetctl trust ca add" and "fleetctl trust sign"`)
		}
	}
	return nil
}

// Kit makes a coordinator's start-up kit of what the repository holds now, with
// a fresh coordinator identity, sealed to the coordinator's age key and to the
// repository's recipients.
func Kit(r *repo.Repository, f *inventory.Fleet, cas CAs, now time.Time) ([]byte, error) {
	k, err := newKit(r, f, cas, now)
	if err != nil {
		return nil, fmt.Errorf("making the coordinator's kit: %w", err)
	}
	recipients, err := kitRecipients(r)
	if err != nil {
		return nil, fmt.Errorf("making the coordinator's kit: %w", err)
	}
	return k.Seal(recipients...)
}

func newKit(r *repo.Repository, f *inventory.Fleet, cas CAs, now time.Time) (*kit.Kit, error) {
	name := f.Coordinator().Machine
	if name == "" {
		name = "coordinator"
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := cas.Serving.Issue(pki.CoordinatorIdentity(f.ID(), name), key.Public(), now, pki.OperatorTTL)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	caKey, err := cas.Issuing.MarshalKey()
	if err != nil {
		return nil, err
	}
	roots, err := r.Roots()
	if err != nil {
		return nil, err
	}
	trust, pin, err := r.Trust()
	if err != nil {
		return nil, err
	}
	if err := cas.listed(trust); err != nil {
		return nil, err
	}
	bans, err := r.Bans()
	if err != nil {
		return nil, err
	}
	k := &kit.Kit{
		Fleet: f.ID(), Name: string(name), CACert: cas.Issuing.Cert.Raw, CAKey: caKey, Cert: cert, Key: keyDER,
		RootPin: pin, Roots: roots,
	}
	for _, other := range cas.Others {
		k.OtherCAs = append(k.OtherCAs, other.Raw)
	}
	for _, m := range f.Machines() {
		k.Machines = append(k.Machines, kit.Machine{Name: m.Name, Class: m.Class, Tags: m.Tags, Disabled: m.Disabled})
	}
	operators, err := r.AllOperators(f.Operators())
	if err != nil {
		return nil, err
	}
	for _, o := range operators {
		k.Operators = append(k.Operators, kit.Operator{
			Name: o.Name, Role: o.Role, Key: o.Key, Changed: o.Changed, Removed: o.Removed, Reason: o.Reason,
		})
	}
	for _, b := range bans {
		k.Bans = append(k.Bans, kit.Ban{Machine: b.Machine, Reason: b.Reason, Time: b.Time})
	}
	return k, nil
}

func kitRecipients(r *repo.Repository) ([]age.Recipient, error) {
	own, err := r.Read(4<<10, "trust", "coordinator.recipient")
	if err != nil {
		return nil, err
	}
	list, err := r.Recipients()
	if err != nil {
		return nil, err
	}
	return keyring.ParseRecipients(append([]string{strings.TrimSpace(string(own))}, list...))
}
