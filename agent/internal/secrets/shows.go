package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// window is how many bytes in a row of a secret give it away. Shorter secrets
// can't be told from chance.
const window = 8

// Shows says whether a text holds any part, of eight bytes or more, of a secret
// that is installed for the link at root, be it in use or not. It errs on the
// side of yes: what a secret has in common with ordinary words counts too. One
// that was encoded or cut to pieces is not seen.
func Shows(root, text string) (bool, error) {
	seen := map[[window]byte]bool{}
	for i := 0; i+window <= len(text); i++ {
		seen[[window]byte([]byte(text[i:i+window]))] = true
	}
	if len(seen) == 0 {
		return false, nil
	}
	found := false
	err := filepath.WalkDir(root+".d", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		plain, err := readPlain(path)
		if err != nil {
			return err
		}
		defer clear(plain)
		for i := 0; i+window <= len(plain); i++ {
			if seen[[window]byte(plain[i:i+window])] {
				found = true
				return fs.SkipAll
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("comparing with secrets: %w", err)
	}
	return found, nil
}

func readPlain(path string) ([]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > fleet.MaxSecretBytes {
		return nil, fmt.Errorf("%s: %w", path, ErrTooLarge)
	}
	return os.ReadFile(path) //nolint:gosec // Below the secrets' own directory.
}
