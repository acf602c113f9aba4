// Package packaging holds the tests of how the programs are put on a host: the
// modules for NixOS and nix-darwin, the units, and the packages.
//
// The modules are evaluated by a real Nix against a stub of the module system
// (testdata/nix), in tests under the build tag lab, which make lab runs on a host
// that has a Nix. What came of it is in testdata/evaluated.json, with the digest of
// every file that it came of; the tests without that tag hold it against the units
// and the programs, and fail where one of these files was changed since.
package packaging

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	// Root of the repository, from this directory.
	Root = "../.."
	// EvaluatedFile is what the modules come to, from this directory.
	EvaluatedFile = "testdata/evaluated.json"
)

// Evaluated is what the modules come to.
type Evaluated struct {
	// Of are the files that were evaluated, from the root of the repository, with
	// the SHA-256 of each in hexadecimal.
	Of map[string]string `json:"of"`
	// Cases are what testdata/nix/cases.nix has under "good".
	Cases json.RawMessage `json:"cases"`
}

// Inputs are the files that evaluating reads, from the root of the repository,
// with the SHA-256 of each.
func Inputs(root string) (map[string]string, error) {
	of := map[string]string{}
	for _, pattern := range []string{"flake.nix", "packaging/nix/*", "test/packaging/testdata/nix/*"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err == nil && len(files) == 0 {
			err = errors.New("there is no such file")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file) //nolint:gosec // Of the repository.
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(root, file)
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256(data)
			of[filepath.ToSlash(name)] = hex.EncodeToString(sum[:])
		}
	}
	return of, nil
}

// Marshal is the file's text: what is the same is written the same.
func (e Evaluated) Marshal() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
