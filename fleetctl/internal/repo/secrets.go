package repo

import (
	"errors"
	"os"
	"sort"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// SecretIndex describes the published ciphertexts of a machine, by name.
type SecretIndex map[fleet.SecretName]SecretMeta

// SecretMeta describes one published ciphertext.
type SecretMeta struct {
	Version uint64       `json:"version"`
	Digest  fleet.Digest `json:"digest"`
	Size    uint64       `json:"size"`
	// Recipients that the ciphertext was made for, sorted: where they change,
	// it is made anew.
	Recipients []string `json:"recipients"`
}

// Secrets reads the index of a machine; empty where there is none.
func (r *Repository) Secrets(m fleet.MachineName) (SecretIndex, error) {
	idx := SecretIndex{}
	err := r.readJSON(16<<20, &idx, "secrets", string(m), "index.json")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return idx, nil
}

// ReadSecret returns a published ciphertext, or nil where the file is not the
// one that meta describes: it counts as never published then.
func (r *Repository) ReadSecret(m fleet.MachineName, name fleet.SecretName, meta SecretMeta) ([]byte, error) {
	data, err := r.Read(2*fleet.MaxSecretBytes, "secrets", string(m), string(name)+".age")
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case fleet.DigestOf(data) != meta.Digest:
		return nil, nil
	}
	return data, nil
}

// WriteSecret records a ciphertext, then its description.
func (r *Repository) WriteSecret(m fleet.MachineName, name fleet.SecretName, data []byte, meta SecretMeta) error {
	idx, err := r.Secrets(m)
	if err != nil {
		return err
	}
	if err := r.Write(data, "secrets", string(m), string(name)+".age"); err != nil {
		return err
	}
	sort.Strings(meta.Recipients)
	idx[name] = meta
	return r.writeJSON(idx, "secrets", string(m), "index.json")
}
