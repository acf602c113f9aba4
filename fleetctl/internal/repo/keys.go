package repo

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Keys is where keys that sign are found, besides the repository's files.
type Keys interface {
	Opener
	// UsesFile says whether a key file may be used.
	UsesFile(path string) bool
	// AgentSigners returns those of the named keys that an ssh-agent has. An
	// error says why it could not be asked.
	AgentSigners(ids []string) ([]release.Signer, error)
}

// maxKeyFile bounds a file of trust/keys, in bytes.
const maxKeyFile = 64 << 10

// Signers returns as many keys of a role as its threshold in t asks for:
// age-encrypted ones of trust/keys first, then those of an ssh-agent. Where
// there are fewer it is an error that wraps ErrNoKey.
func (r *Repository) Signers(t *release.Trust, role release.RoleName, k Keys) ([]release.Signer, error) {
	want := t.Root().Roles[role]
	out, err := r.SomeSigners(t, role, k)
	if len(out) >= want.Threshold {
		return out, nil
	}
	short := fmt.Errorf("%w: role %s needs %d, %d can be used of trust/keys/ and the ssh-agent", ErrNoKey, role, want.Threshold, len(out))
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("%w: %w", short, err), ui.HintOf(err))
	}
	return nil, ui.WithHint(short, "bring the key back from where it is kept")
}

// SomeSigners returns the keys of a role that can be used here, at most as many
// as its threshold. The error says why others could not be; it comes with the
// keys that can.
func (r *Repository) SomeSigners(t *release.Trust, role release.RoleName, k Keys) ([]release.Signer, error) {
	want := t.Root().Roles[role]
	return r.signersOf(want.KeyIDs, want.Threshold, string(role)+"-", k)
}

// AllSigners returns all of the named keys that can be used here.
func (r *Repository) AllSigners(ids []string, k Keys) ([]release.Signer, error) {
	return r.signersOf(ids, len(ids), "", k)
}

func (r *Repository) signersOf(ids []string, most int, first string, k Keys) ([]release.Signer, error) {
	files, err := r.KeyFiles()
	if err != nil {
		return nil, err
	}
	// Those that are named for the role are the likely ones.
	slices.SortStableFunc(files, func(a, b string) int { return rank(a, first) - rank(b, first) })
	var out []release.Signer
	var cause error
	has := func(id string) bool {
		return slices.ContainsFunc(out, func(s release.Signer) bool { return s.KeyID() == id })
	}
	for _, name := range files {
		if len(out) == most {
			return out, cause
		}
		if !k.UsesFile(r.Path("trust", "keys", name)) || !r.maybeOf(name, ids) {
			continue
		}
		s, err := r.signer(k, name)
		switch {
		case err != nil:
			cause = err // Another key may do.
		case slices.Contains(ids, s.KeyID()) && !has(s.KeyID()):
			out = append(out, s)
		}
	}
	if len(out) == most {
		return out, cause
	}
	agents, err := k.AgentSigners(ids)
	if err != nil {
		cause = errors.Join(cause, err)
	}
	for _, s := range agents {
		if len(out) < most && !has(s.KeyID()) {
			out = append(out, s)
		}
	}
	return out, cause
}

func rank(name, first string) int {
	if strings.HasPrefix(name, first) {
		return 0
	}
	return 1
}

// KeyFiles lists the names of the age-encrypted keys in trust/keys.
func (r *Repository) KeyFiles() ([]string, error) {
	entries, err := os.ReadDir(r.Path("trust", "keys"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".age") && !strings.HasPrefix(name, ".") {
			out = append(out, name)
		}
	}
	return out, nil
}

// maybeOf says whether a key file can be one of the named keys: a file with the
// public part beside it need not be opened to know.
func (r *Repository) maybeOf(name string, ids []string) bool {
	id, err := r.KeyNote(strings.TrimSuffix(name, ".age"))
	return err != nil || id == "" || slices.Contains(ids, id)
}

// KeyNote reads the id in the first line of trust/keys/NAME.pub, which
// NotePublicKey wrote; empty where there is no such file.
func (r *Repository) KeyNote(name string) (id string, err error) {
	data, err := r.Read(maxKeyFile, "trust", "keys", name+".pub")
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	id, ok := strings.CutPrefix(first, keyNote)
	if !ok {
		return "", nil
	}
	return strings.TrimSpace(id), nil
}

const keyNote = "# key id "

// NotePublicKey records a key's public part in trust/keys/NAME.pub, as a line
// that OpenSSH reads, below its key id.
func (r *Repository) NotePublicKey(name, id, line string) error {
	return r.Write([]byte(keyNote+id+"\n"+line+"\n"), "trust", "keys", name+".pub")
}

// KeyNotes lists the public keys that are recorded in trust/keys: their names,
// without the ending, by key id.
func (r *Repository) KeyNotes() (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(r.Path("trust", "keys"), "*.pub"))
	if err != nil {
		return nil, fmt.Errorf("reading signing keys: %w", err)
	}
	out := map[string]string{}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".pub")
		id, err := r.KeyNote(name)
		if err != nil {
			return nil, err
		}
		if id != "" {
			out[id] = name
		}
	}
	return out, nil
}

// WriteKey keeps a sealed private key as trust/keys/NAME.age. It replaces none.
func (r *Repository) WriteKey(name string, sealed []byte) error {
	if _, err := os.Lstat(r.Path("trust", "keys", name+".age")); !errors.Is(err, os.ErrNotExist) {
		return ui.WithHint(fmt.Errorf("keeping key %s: trust/keys/%s.age is there already", name, name), "choose another name")
	}
	return r.Write(sealed, "trust", "keys", name+".age")
}

// DropKey removes a key that WriteKey has just kept.
func (r *Repository) DropKey(name string) error {
	if err := os.Remove(r.Path("trust", "keys", name+".age")); err != nil {
		return fmt.Errorf("removing key %s: %w", name, err)
	}
	return nil
}

// KeyIDOf opens a key file of trust/keys to learn its id.
func (r *Repository) KeyIDOf(o Opener, name string) (string, error) {
	s, err := r.signer(o, name)
	if err != nil {
		return "", err
	}
	return s.KeyID(), nil
}

func (r *Repository) signer(o Opener, name string) (release.Signer, error) {
	der, err := r.openPEM(o, "trust", "keys", name)
	if err != nil {
		return nil, err
	}
	key, err := pki.ParseKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading trust/keys/%s: %w", name, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading trust/keys/%s: %w: want an ed25519 key", name, ErrCorrupt)
	}
	return release.NewSigner(ed), nil
}
