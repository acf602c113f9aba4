// Package bootentry finds a system's entry among those of a boot loader that follows the
// Boot Loader Specification, type 1 (uapi-group.org/specifications): files with lines of a
// key and a value.
package bootentry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// ErrNone says that no entry starts a system.
var ErrNone = errors.New("no boot entry starts it")

const (
	suffix = ".conf"
	// maxEntries and maxEntryBytes bound what is read: a firmware's partition has room
	// for hundreds.
	maxEntries    = 1000
	maxEntryBytes = 64 << 10
)

// Find returns the id of the entry in dir whose kernel is started with that init. Where
// several are, as for one system in several generations, it is any of them. It wraps
// ErrNone.
func Find(dir, init string) (id string, err error) {
	d, err := os.Open(dir) //nolint:gosec // The boot loader's.
	if err != nil {
		return "", fmt.Errorf("looking for a boot entry: %w", err)
	}
	names, err := d.Readdirnames(maxEntries + 1)
	if err = errors.Join(err, d.Close()); err != nil && len(names) == 0 {
		return "", fmt.Errorf("looking for a boot entry: %w: %w", ErrNone, err)
	}
	if len(names) > maxEntries {
		return "", fmt.Errorf("looking for a boot entry: more than %d files in %s", maxEntries, dir)
	}
	slices.Sort(names)
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		text, err := atomicfile.ReadAtMost(filepath.Join(dir, name), maxEntryBytes)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, atomicfile.ErrTooLarge) {
			continue // Gone meanwhile, or none of ours.
		}
		if err != nil {
			return "", fmt.Errorf("looking for a boot entry: %w", err)
		}
		if slices.Contains(options(string(text)), "init="+init) {
			return name, nil
		}
	}
	return "", fmt.Errorf("looking for a boot entry: %w: %s, in %s", ErrNone, init, dir)
}

// options are the kernel's parameters of an entry; a key may come more than once.
func options(entry string) (params []string) {
	for line := range strings.Lines(entry) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "options" {
			params = append(params, f[1:]...)
		}
	}
	return params
}
