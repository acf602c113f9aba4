package secrets_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// FuzzPrepare takes any path and ciphertext: nothing may land outside of the
// directory, and nothing may stay where the preparation failed.
func FuzzPrepare(f *testing.F) {
	key, err := age.ParseX25519Identity("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX")
	if err != nil {
		f.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, key.Recipient())
	if err != nil {
		f.Fatal(err)
	}
	if _, err := io.WriteString(w, "secret"); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add("web/token", sealed.Bytes(), uint32(0o400))
	f.Add("web/../token", sealed.Bytes(), uint32(0o440))
	f.Add("web/token", sealed.Bytes()[:sealed.Len()-1], uint32(0o400))
	f.Add("web/token", []byte("age-encryption.org/v1\n-> X25519 x\n"), uint32(0o400))
	f.Add("../x", []byte("-----BEGIN AGE ENCRYPTED FILE-----\n"), uint32(0o4755))
	f.Add("a/./b", []byte(nil), uint32(0))
	f.Fuzz(func(t *testing.T, path string, cipher []byte, mode uint32) {
		top := t.TempDir()
		digest := fleet.DigestOf(cipher)
		manifest := fleet.SecretsManifest{Entries: []fleet.SecretEntry{
			{Name: "x", Digest: digest, Size: uint64(len(cipher)), Path: path, Mode: mode},
		}}
		dir, err := secrets.Prepare(t.Context(), filepath.Join(top, "secrets"), manifest, digest,
			func(fleet.BlobRef) ([]byte, error) { return cipher, nil }, []age.Identity{key})
		if err == nil {
			if b, rerr := os.ReadFile(filepath.Join(dir, path)); rerr != nil || string(b) != "secret" {
				t.Errorf("prepared is %q, %v", b, rerr)
			}
		}
		for name := range tree(t, top) {
			switch {
			case name == "." || name == "secrets.d":
			case err != nil || !strings.HasPrefix(filepath.Join(top, name), dir):
				t.Errorf("%s is there after %v", name, err)
			}
		}
	})
}
