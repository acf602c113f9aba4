// Package bootentry finds a system's entry among those of a boot loader that follows the
// Boot Loader Specification, type 1 (uapi-group.org/specifications): files with lines of a
// key and a value.
package bootentry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
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

// Find returns the id of an entry in dir whose kernel is started with that init. Where
// several are, as for one system in several generations, it is any of them. It wraps
// ErrNone.
func Find(dir, init string) (id string, err error) {
	ids, err := all(dir, init)
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// Boots says whether what the loader boots by default is an entry in dir whose kernel is
// started with that init. It wraps ErrNone where there is no such entry.
func Boots(dir, init string) (bool, error) {
	ids, err := all(dir, init)
	if err != nil {
		return false, err
	}
	// loader.conf(5): a pattern of ids.
	text, err := atomicfile.ReadAtMost(filepath.Join(filepath.Dir(dir), "loader.conf"), maxEntryBytes)
	if err != nil {
		return false, fmt.Errorf("looking for what boots: %w", err)
	}
	pattern := ""
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "default" {
			pattern = f[1]
		}
	}
	return slices.ContainsFunc(ids, func(id string) bool {
		match, err := path.Match(pattern, id)
		return err == nil && match || pattern+suffix == id
	}), nil
}

// all are the ids of all entries of a system, by name.
func all(dir, init string) (ids []string, err error) {
	d, err := os.Open(dir) //nolint:gosec // The boot loader's.
	if err != nil {
		return nil, fmt.Errorf("looking for a boot entry: %w", err)
	}
	names, err := d.Readdirnames(maxEntries + 1)
	if cerr := d.Close(); err != nil && !errors.Is(err, io.EOF) || cerr != nil {
		return nil, fmt.Errorf("looking for a boot entry: %w", errors.Join(err, cerr))
	}
	if len(names) > maxEntries {
		return nil, fmt.Errorf("looking for a boot entry: more than %d files in %s", maxEntries, dir)
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
			return nil, fmt.Errorf("looking for a boot entry: %w", err)
		}
		if slices.Contains(options(string(text)), "init="+init) {
			ids = append(ids, name)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("looking for a boot entry: %w: %s, in %s", ErrNone, init, dir)
	}
	return ids, nil
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
