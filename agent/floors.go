package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// raiser knows what secrets a host may have of each generation of a profile: none below
// the floors that are on record. A floor is on record once the generation that brought it
// is staged, all its ciphertexts decrypted.
type raiser struct {
	floors secrets.Floors
	// newer are the entries of all manifests that are here, by the generations' digests.
	newer map[fleet.Digest]*fleet.SecretsManifest
	here  func(fleet.BlobRef) bool
	log   *slog.Logger
}

// newRaiser reads nothing where there are no floors.
func newRaiser(profile fleet.ProfileName, p journal.ProfileState, store *desired.Store, here func(fleet.BlobRef) bool, log *slog.Logger) (raiser, error) {
	r := raiser{floors: p.Floors, here: here, log: log}
	if len(r.floors) == 0 {
		return r, nil
	}
	var err error
	if r.newer, err = store.SecretsOf(profile); err != nil {
		return r, fmt.Errorf("looking for newer secrets: %w", err)
	}
	return r, nil
}

func (a *Agent) raiser(profile fleet.ProfileName) (raiser, error) {
	st := a.journal.State()
	return newRaiser(profile, st.Profile(profile), a.bound.Load().desired, a.blobs.Has, a.config.Log)
}

// raise returns what the host has of a manifest with a digest, and the digest of that.
func (r raiser) raise(m fleet.SecretsManifest, digest fleet.Digest) (fleet.SecretsManifest, fleet.Digest, error) {
	if r.floors.Above(m.Entries) {
		return m, digest, nil
	}
	var newer []fleet.SecretEntry
	for _, other := range r.newer {
		newer = append(newer, other.Entries...)
	}
	var left []fleet.SecretName
	if m.Entries, left = r.floors.Raise(m.Entries, newer, r.here); len(left) > 0 {
		r.log.Warn("secrets that were revoked are left out, and there is no newer one", "secrets", left)
	}
	b, err := json.Marshal(m.Entries)
	if err != nil {
		return m, digest, fmt.Errorf("naming raised secrets: %w", err)
	}
	return m, fleet.DigestOf(b), nil
}

// revoked says whether the directory of a generation's secrets has any below its floor.
func (r raiser) revoked(b journal.Built, store *desired.Store) bool {
	if b.Secrets == "" || len(r.floors) == 0 {
		return false
	}
	m, digest, err := store.LoadAcceptedSecrets(b.Ref.Digest)
	return err == nil && m != nil && filepath.Base(b.Secrets) == digest.Short() && !r.floors.Above(m.Entries)
}

// providers are the generations whose ciphertexts take the place of what is below its
// floor: they stay on the host.
func (r raiser) providers() []fleet.Digest {
	var all []fleet.Digest
	for name := range r.floors {
		var best *fleet.SecretEntry
		var of fleet.Digest
		for d, m := range r.newer {
			if e := r.floors.Newest(name, m.Entries, r.here); e != nil && (best == nil || e.Version > best.Version) {
				best, of = e, d
			}
		}
		if best != nil {
			all = append(all, of)
		}
	}
	return all
}
