package service

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Self is the file of the program that runs, whatever links lead to it, as
// executable (os.Executable) tells.
func Self(executable func() (string, error)) (string, error) {
	exe, err := executable()
	if err == nil {
		exe, err = filepath.EvalSymlinks(exe)
	}
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	return exe, nil
}

// checkProgram refuses a path that a service's program can't have.
func checkProgram(service, path string) error {
	if err := PlainPath("--program", path); err != nil {
		return err
	}
	if filepath.Base(path) != service {
		return fmt.Errorf("--program %s: want a path that ends with /%s: what is there is replaced", path, service)
	}
	if inStore(path) {
		return ui.WithHint(fmt.Errorf("--program %s: want a path outside of the Nix store, which garbage collection empties and each build moves", path),
			"leave --program out: the program is copied")
	}
	return nil
}

// placed says what placing a program did.
type placed struct {
	// copied is that the program is a copy, changed that it is another one now.
	copied, changed bool
}

// placeProgram puts the program that runs, from, where the service is to run it
// from, so that what is there is always a whole one.
func (h Host) placeProgram(from, program string, was Record) (placed, error) {
	at := h.path(program)
	source, err := os.Stat(from)
	if err != nil {
		return placed{}, fmt.Errorf("reading this program: %w", err)
	}
	there, err := os.Lstat(at)
	if err == nil && there.IsDir() {
		return placed{}, fmt.Errorf("placing the program: %s is a directory", program)
	}
	if err == nil && there.Mode().IsRegular() {
		copied := was.Copied && was.Program == program
		if os.SameFile(source, there) {
			return placed{copied: copied}, nil
		}
		same, err := sameContent(from, at)
		if err != nil {
			return placed{}, err
		}
		if same && there.Mode().Perm() == 0o755 {
			// Without a record it is what an install that was cut short left.
			return placed{copied: copied || was.Service == ""}, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil { //nolint:gosec // Programs are for all.
		return placed{}, fmt.Errorf("placing the program: %w", err)
	}
	in, err := os.Open(from)
	if err != nil {
		return placed{}, fmt.Errorf("reading this program: %w", err)
	}
	err = atomicfile.Write(at, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err //nolint:wrapcheck // The caller names the file.
	})
	return placed{copied: true, changed: true}, errors.Join(err, in.Close())
}

func sameContent(a, b string) (bool, error) {
	sa, err := sum(a)
	if err != nil {
		return false, err
	}
	sb, err := sum(b)
	return bytes.Equal(sa, sb), err
}

func sum(file string) ([]byte, error) {
	f, err := os.Open(file) //nolint:gosec // One of the two is this program.
	if err != nil {
		return nil, fmt.Errorf("comparing programs: %w", err)
	}
	s := sha256.New()
	_, err = io.Copy(s, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("comparing programs: %w", err)
	}
	return s.Sum(nil), nil
}
