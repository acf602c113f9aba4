package bootentry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// Specification is a loader of the Boot Loader Specification, type 1
// (uapi-group.org/specifications), as systemd-boot is: each entry is a file with lines of a
// key and a value.
type Specification struct {
	// Dir has the entries.
	Dir string
}

const (
	suffix = ".conf"
	// maxEntries and maxEntryBytes bound what is read: a firmware's partition has room
	// for hundreds.
	maxEntries    = 1000
	maxEntryBytes = 64 << 10
)

// Find implements Loader. Where several entries are a system's, as for one system in
// several generations, it is any of them.
func (l Specification) Find(init string) (id string, err error) {
	entries, err := l.read()
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.starts(init) {
			return e.id, nil
		}
	}
	return "", l.none(init)
}

// Boots implements Loader. A default that may be several systems', as a pattern of names,
// is nobody's: which the loader takes depends on an order, and on how often it tried them.
func (l Specification) Boots(init string) (bool, error) {
	entries, err := l.read()
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(entries, func(e specified) bool { return e.starts(init) }) {
		return false, l.none(init)
	}
	// loader.conf(5): a pattern of ids.
	text, err := atomicfile.ReadAtMost(filepath.Join(filepath.Dir(l.Dir), "loader.conf"), maxEntryBytes)
	if err != nil {
		return false, fmt.Errorf("looking for what boots: %w", err)
	}
	pattern := ""
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "default" {
			pattern = f[1]
		}
	}
	boots := false
	for _, e := range entries {
		match, err := path.Match(pattern, e.id)
		if match = err == nil && match || pattern+suffix == e.id; !match {
			continue
		}
		if !e.starts(init) {
			return false, nil
		}
		boots = true
	}
	return boots, nil
}

// Once implements Loader, for systemd's bootctl.
func (Specification) Once(id string) []string { return []string{"set-oneshot", id} }

// specified is what an entry's file says.
type specified struct {
	// id is the loader's name of the entry.
	id string
	// options are the kernel's parameters.
	options []string
}

func (e specified) starts(init string) bool { return slices.Contains(e.options, "init="+init) }

func (l Specification) none(init string) error {
	return fmt.Errorf("looking for a boot entry: %w: %s, in %s", ErrNone, init, l.Dir)
}

// tries are what boot counting has in a file's name: how many boots are left, and how many
// were tried (systemd.io/AUTOMATIC_BOOT_ASSESSMENT).
var tries = regexp.MustCompile(`\+[0-9]+(-[0-9]+)?\.conf$`)

// idOf is the id of the entry in a file of that name. The loader renames files as it counts
// boots, and knows no id that has the count.
func idOf(name string) string { return tries.ReplaceAllString(name, suffix) }

// read reads all entries, by their files' names.
func (l Specification) read() (entries []specified, err error) {
	dir := l.Dir
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
		entries = append(entries, specified{id: idOf(name), options: options(string(text))})
	}
	return entries, nil
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
