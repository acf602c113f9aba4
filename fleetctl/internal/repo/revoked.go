package repo

import (
	"errors"
	"os"
	"path"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Revoked is what a machine may not have any more: what is published to it from now on
// says so, and its agent keeps to it.
type Revoked struct {
	// Floors are the lowest versions of its secrets that are good.
	Floors map[fleet.SecretName]uint64 `json:"floors,omitempty"`
	// Before is until when generations had, in themselves, values that are not good any
	// more; zero for never.
	Before time.Time `json:"before,omitzero"`
}

// Raise adds what is revoked besides. Nothing is ever good again.
func (r *Revoked) Raise(more Revoked) {
	for name, floor := range more.Floors {
		if r.Floors == nil {
			r.Floors = map[fleet.SecretName]uint64{}
		}
		r.Floors[name] = max(r.Floors[name], floor)
	}
	if more.Before.After(r.Before) {
		r.Before = more.Before
	}
}

// Revoked reads what is revoked of a machine; nothing where there is no file.
func (r *Repository) Revoked(m fleet.MachineName) (Revoked, error) {
	var rev Revoked
	err := r.readJSON(1<<20, &rev, "secrets", string(m), "revoked.json")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return rev, err
	}
	return rev, nil
}

// RevokedFile is where that is, relative to the repository.
func RevokedFile(m fleet.MachineName) string { return path.Join("secrets", string(m), "revoked.json") }

// Revoke records what is revoked of a machine besides. The caller holds the lock.
func (r *Repository) Revoke(m fleet.MachineName, more Revoked) error {
	rev, err := r.Revoked(m)
	if err != nil {
		return err
	}
	rev.Raise(more)
	return r.writeJSON(rev, "secrets", string(m), "revoked.json")
}
