package packaging

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// nar writes a file or directory as Nix archives it.
func nar(w io.Writer, path string) error {
	str := func(list ...string) error {
		for _, s := range list {
			b := binary.LittleEndian.AppendUint64(nil, uint64(len(s)))
			b = append(append(b, s...), make([]byte, (8-len(s)%8)%8)...)
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch {
	case fi.Mode().IsRegular():
		data, err := os.ReadFile(path) //nolint:gosec // Of this test.
		if err != nil {
			return err
		}
		if fi.Mode()&0o100 != 0 {
			return str("(", "type", "regular", "executable", "", "contents", string(data), ")")
		}
		return str("(", "type", "regular", "contents", string(data), ")")
	case fi.IsDir():
		if err := str("(", "type", "directory"); err != nil {
			return err
		}
		entries, err := os.ReadDir(path) // by name, as in the archive
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := str("entry", "(", "name", e.Name(), "node"); err != nil {
				return err
			}
			if err := nar(w, filepath.Join(path, e.Name())); err != nil {
				return err
			}
			if err := str(")"); err != nil {
				return err
			}
		}
		return str(")")
	}
	return fmt.Errorf("%s: mode %s is in no vendor directory", path, fi.Mode())
}

// narHash is what Nix calls the hash of a path: "sha256-" and base64.
func narHash(path string) (string, error) {
	h := sha256.New()
	b := binary.LittleEndian.AppendUint64(nil, 13)
	if _, err := h.Write(append(b, "nix-archive-1\x00\x00\x00"...)); err != nil {
		return "", err
	}
	if err := nar(h, path); err != nil {
		return "", err
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}

// TestNarHash has hashes that "nix hash path --sri" printed.
func TestNarHash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	write := func(name, text string, perm os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // Of this test.
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), perm); err != nil {
			t.Fatal(err)
		}
	}
	write("b", "eight by", 0o644)
	write("a/c", "", 0o600)
	write("a.d", "#!/bin/sh\n", 0o755)
	for path, want := range map[string]string{
		dir:                     "sha256-gnS1JoRH7JgH/84mQw68ShhgN5dtJB7t8fveAArmFng=",
		filepath.Join(dir, "b"): "sha256-AJ+vCaV9Kjrf6txrd7R5r3a5m+LO0Dgrm2WYXcoUQ6s=",
	} {
		if got, err := narHash(path); err != nil || got != want {
			t.Errorf("%s: %s, want %s: %v", filepath.Base(path), got, want, err)
		}
	}
	if err := os.Symlink("b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := narHash(dir); err == nil {
		t.Errorf("with a link: %s", got)
	}
}

// look looks at the repository's files: go test does not see what the programs read
// that a test runs, and would answer from its cache though a file was changed.
func look(t *testing.T) {
	t.Helper()
	if err := filepath.WalkDir(Root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", ".tools", "bin"}, d.Name()) {
			return filepath.SkipDir
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestVendorHash: buildGoModule takes the modules by the hash of what "go mod
// vendor" makes of go.mod.
func TestVendorHash(t *testing.T) {
	look(t)
	dir := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.CommandContext(t.Context(), "go", "mod", "vendor", "-o", dir) //nolint:gosec // Of this test.
	cmd.Dir = Root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	want, err := narHash(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t).Package.VendorHash; got != want {
		t.Errorf("vendorHash in packaging/nix/package.nix is %s, and of this go.mod it is %s: write it there, then make lab LABFLAGS=-modules", got, want)
	}
}
