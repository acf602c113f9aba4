package bundle_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/bundle"
)

// The files of a plugin's source need no program, and those of a bundle do.
func TestPlain(t *testing.T) {
	dir := t.TempDir()
	// A file that only means something in a bundle.
	if err := os.WriteFile(filepath.Join(dir, bundle.Check), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Pack(dir, io.Discard); !errors.Is(err, bundle.ErrMode) {
		t.Errorf("as a bundle: %v, want %v", err, bundle.ErrMode)
	}
	var tar bytes.Buffer
	src, err := bundle.PackFiles(dir, &tar)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "to")
	if err := bundle.Unpack(t.Context(), bytes.NewReader(tar.Bytes()), to, src, bundle.Limits{}, nil); !errors.Is(err, bundle.ErrMode) {
		t.Errorf("unpacked as a bundle: %v, want %v", err, bundle.ErrMode)
	}
	plain := bundle.Limits{Plain: true}
	if err := bundle.Unpack(t.Context(), &tar, to, src, plain, nil); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, bundle.Check)); err != nil || string(b) != "text" {
		t.Errorf("got %q, %v", b, err)
	}
	if err := bundle.Verify(t.Context(), to, src.Digest, plain); err != nil {
		t.Error(err)
	}
}
