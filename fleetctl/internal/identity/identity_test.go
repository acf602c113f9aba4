package identity

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// TestLargeFiles: what is no file of fleetctl's does not fill the memory.
func TestLargeFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{certFile, keyFile} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		// Of a terabyte, none of which is on the disk.
		if err := os.Truncate(filepath.Join(dir, name), 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := readCert(dir); !errors.Is(err, atomicfile.ErrTooLarge) || !strings.Contains(err.Error(), certFile) {
		t.Errorf("certificate: %v", err)
	}
	if _, err := readFile(dir, keyFile); !errors.Is(err, atomicfile.ErrTooLarge) || !strings.Contains(err.Error(), keyFile) {
		t.Errorf("key: %v", err)
	}
}
