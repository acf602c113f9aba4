package bootstrap

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// Kit makes a coordinator's start-up kit of what the repository holds now, with
// a fresh coordinator identity, sealed to the coordinator's age key and to the
// repository's recipients.
func Kit(r *repo.Repository, f *inventory.Fleet, ca *pki.CA, now time.Time) ([]byte, error) {
	k, err := newKit(r, f, ca, now)
	if err != nil {
		return nil, fmt.Errorf("making the coordinator's kit: %w", err)
	}
	recipients, err := kitRecipients(r)
	if err != nil {
		return nil, fmt.Errorf("making the coordinator's kit: %w", err)
	}
	return k.Seal(recipients...)
}

func newKit(r *repo.Repository, f *inventory.Fleet, ca *pki.CA, now time.Time) (*kit.Kit, error) {
	name := f.Coordinator().Machine
	if name == "" {
		name = "coordinator"
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Issue(pki.CoordinatorIdentity(f.ID(), name), key.Public(), now, pki.OperatorTTL)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	caKey, err := ca.MarshalKey()
	if err != nil {
		return nil, err
	}
	roots, err := r.Roots()
	if err != nil {
		return nil, err
	}
	_, pin, err := r.Trust()
	if err != nil {
		return nil, err
	}
	bans, err := r.Bans()
	if err != nil {
		return nil, err
	}
	k := &kit.Kit{
		Fleet: f.ID(), Name: string(name), CACert: ca.Cert.Raw, CAKey: caKey, Cert: cert, Key: keyDER,
		RootPin: pin, Roots: roots,
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
