package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// KeepKey has the file in which sops-nix looks for a machine's key be there: with the keys
// of ids, for root alone, where there is none. One that is there is somebody's, and stays.
func KeepKey(file string, ids []age.Identity) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return fmt.Errorf("looking for the key of systems' secrets: %w", err)
		}
		return nil
	}
	var text strings.Builder
	for _, id := range ids {
		// An identity of a plugin, or of SSH, is no line of such a file.
		switch id := id.(type) {
		case *age.X25519Identity:
			text.WriteString(id.String() + "\n")
		case *age.HybridIdentity:
			text.WriteString(id.String() + "\n")
		}
	}
	if text.Len() == 0 {
		return fmt.Errorf("making %s: the agent has no age identity that goes there", file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("making %s: %w", file, err)
	}
	if err := atomicfile.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("making %s: %w", file, err)
	}
	return nil
}
