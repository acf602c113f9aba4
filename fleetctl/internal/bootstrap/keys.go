package bootstrap

import (
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/fleetctl/internal/rootedit"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// firstEpoch of generation numbers.
const firstEpoch = 1

// trustRoot makes the keys of all roles and the first root.
func trustRoot(cfg Config, r *repo.Repository, recipients []age.Recipient) error {
	root := release.Root{
		Type: fleet.TypeRoot, Fleet: cfg.Fleet, Version: 1, Epoch: firstEpoch,
		Issued: cfg.Now.UTC().Truncate(time.Second), Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	root.Expires = root.Issued.Add(rootedit.DefaultExpiry)
	var signers []release.Signer
	for _, role := range append(release.Roles(), release.RoleBuilder) {
		count, threshold := 1, 1
		if role == release.RoleRoot {
			count, threshold = cfg.RootKeys, cfg.RootThreshold
		}
		keys := release.RoleKeys{Threshold: threshold}
		for i := range count {
			key, err := pki.NewKey()
			if err != nil {
				return err
			}
			signer := release.NewSigner(key)
			if role == release.RoleRoot {
				signers = append(signers, signer)
			}
			id, pub := release.NewKey(public(key))
			root.Keys[id] = pub
			keys.KeyIDs = append(keys.KeyIDs, id)
			sealed, err := identity.SealKey(key, recipients...)
			if err != nil {
				return err
			}
			name := fmt.Sprintf("%s-%d", role, i+1)
			if err := r.WriteKey(name, sealed); err != nil {
				return err
			}
			note, err := keyring.SSHKeyOf(public(key), name)
			if err != nil {
				return err
			}
			if err := r.NotePublicKey(name, id, note.Line()); err != nil {
				return err
			}
		}
		root.Roles[role] = keys
	}
	env, _, err := release.Seal(fleet.TypeRoot, root, signers...)
	if err != nil {
		return err
	}
	if err := r.WriteRoot(root.Version, env); err != nil {
		return err
	}
	_, _, err = r.Trust()
	return err
}

func authority(cfg Config, r *repo.Repository, recipients []age.Recipient) (*pki.CA, error) {
	ca, sealed, err := NewCA(cfg.Fleet, cfg.Now, recipients...)
	if err != nil {
		return nil, err
	}
	if err := r.Write(sealed, "trust", "ca.key.age"); err != nil {
		return nil, err
	}
	return ca, r.Write(repo.EncodeCert(ca.Cert.Raw), "trust", "ca.crt")
}

// NewCA makes a fleet's certificate authority, and its key sealed to recipients.
func NewCA(f fleet.FleetID, now time.Time, recipients ...age.Recipient) (ca *pki.CA, sealed []byte, err error) {
	if ca, err = pki.NewCA(f, now); err != nil {
		return nil, nil, err
	}
	der, err := ca.MarshalKey()
	if err != nil {
		return nil, nil, err
	}
	sealed, err = pki.SealKey(pki.EncodeKey(der), recipients...)
	return ca, sealed, err
}

// coordinatorKey makes the age key that opens the kit on the coordinator.
func coordinatorKey(r *repo.Repository) error {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("making the coordinator's age key: %w", err)
	}
	if err := r.Write([]byte("/"+filepath.Base(CoordinatorKey)+"\n"), "trust", ".gitignore"); err != nil {
		return err
	}
	if err := r.Write([]byte(id.Recipient().String()+"\n"), "trust", "coordinator.recipient"); err != nil {
		return err
	}
	text := fmt.Sprintf("# public key: %s\n%s\n", id.Recipient(), id)
	return atomicfile.WriteFile(r.Path(filepath.FromSlash(CoordinatorKey)), []byte(text), 0o600)
}

func public(key ed25519.PrivateKey) ed25519.PublicKey {
	pub, _ := key.Public().(ed25519.PublicKey)
	return pub
}

// recordOperator records the first operator and the one key that counts.
func recordOperator(r *repo.Repository, cfg Config, made *identity.Made) error {
	fingerprint, err := pki.KeyFingerprint(made.Key.Public())
	if err != nil {
		return err
	}
	return r.WriteOperator(&repo.OperatorRecord{
		Name: cfg.Operator, Role: fleet.RoleAdmin, Key: fingerprint, Certificate: string(repo.EncodeCert(made.Leaf)),
		Changed: cfg.Now.UTC(), By: "operator/" + string(cfg.Operator),
	})
}
