package vars

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// Sentinels that errors of this package wrap.
var (
	// ErrNotFound is a name that the tree does not have.
	ErrNotFound = errors.New("not in the tree")
	// ErrLink is a link that could let somebody read what is not meant for them.
	ErrLink = errors.New("link refused")
	// ErrTooMuch is a tree, or a file of it, beyond the bounds of this package.
	ErrTooMuch = errors.New("too much to read")
	// ErrLocked is a tree that somebody else is changing; a later try may find it free.
	ErrLocked = errors.New("somebody else is changing the tree")
)

// What is read at most.
const (
	maxEntriesOfDir = 1 << 14
	maxEntriesInAll = 1 << 18
)

// Problem is something about a path of the tree that a person should know.
type Problem struct {
	// Path is relative to the tree.
	Path string
	// Err says what, and what to do.
	Err error
}

func (p Problem) Error() string { return p.Path + ": " + p.Err.Error() }

// Unwrap returns Err.
func (p Problem) Unwrap() error { return p.Err }

// Entry is a directory that holds a value, or may.
type Entry struct {
	// Path is relative to the tree.
	Path string
	// ID is the generator's file; the zero ID is of a secret in sops/secrets.
	ID ID
	// Secret and Public say which files are there. A tree that changed from one to the
	// other may have both.
	Secret, Public bool
	// Links are the readers that the entry names, sorted; who reads through a group is not
	// among them.
	Links []Reader
	// Bad are links that count for nothing and must not be ignored either: nothing is
	// encrypted for an entry that has any.
	Bad []Problem
}

func (e *Entry) clone() *Entry {
	c := *e
	c.Links = slices.Clone(e.Links)
	return &c
}

// Tree is what was in a directory when it was opened. It does not change, and may be used
// by several goroutines.
type Tree struct {
	dir string
	// keys of users and machines.
	keys map[Reader][]Key
	// members of groups.
	groups  map[string][]Reader
	entries map[string]*Entry
	// hashes are the .validation-hash and .script-hash files, by path.
	hashes   map[string]string
	warnings []Problem
	// badGroups are links in groups that are refused.
	badGroups map[string][]Problem
}

// Dir is the directory of the tree.
func (t *Tree) Dir() string { return t.dir }

// Warnings are what was left out and is no danger: dangling links, files that nothing says
// what they are for where secrets are, and the like.
func (t *Tree) Warnings() []Problem { return slices.Clone(t.warnings) }

// Readers returns all readers of a kind, by name.
func (t *Tree) Readers(kind Kind) []Reader {
	var list []Reader
	if kind == Groups {
		for _, g := range slices.Sorted(maps.Keys(t.groups)) {
			list = append(list, Reader{Groups, g})
		}
		return list
	}
	for r := range t.keys {
		if r.Kind == kind {
			list = append(list, r)
		}
	}
	sortReaders(list)
	return list
}

// Keys returns the public keys of a user or a machine; ErrNotFound where there are none.
func (t *Tree) Keys(r Reader) ([]Key, error) {
	keys, ok := t.keys[r]
	if !ok {
		return nil, fmt.Errorf("%s: %w: it has no %s/key.json", r, ErrNotFound, r.path())
	}
	return slices.Clone(keys), nil
}

// Members returns the users and machines of a group.
func (t *Tree) Members(group string) ([]Reader, error) {
	m, ok := t.groups[group]
	if !ok {
		return nil, fmt.Errorf("group %s: %w", group, ErrNotFound)
	}
	return slices.Clone(m), nil
}

// Entries returns all entries, by path.
func (t *Tree) Entries() []Entry {
	list := make([]Entry, 0, len(t.entries))
	for _, p := range slices.Sorted(maps.Keys(t.entries)) {
		list = append(list, *t.entries[p].clone())
	}
	return list
}

// Entry returns the entry of a path, [ID.Path] or [SecretPath]; ErrNotFound where there is none.
func (t *Tree) Entry(path string) (Entry, error) {
	e, ok := t.entries[path]
	if !ok {
		return Entry{}, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	return *e.clone(), nil
}

// ValidationHash is what is kept of a generator's validation; "" where nothing is.
func (t *Tree) ValidationHash(p Placement, generator string) string {
	return t.hashes[hashPath(p, generator, validationHash)]
}

// ScriptHash is what is kept of a generator's script and of what it read; "" where nothing is.
func (t *Tree) ScriptHash(p Placement, generator string) string {
	return t.hashes[hashPath(p, generator, scriptHash)]
}

func hashPath(p Placement, generator, name string) string {
	return path.Join("vars", ID{Placement: p, Generator: generator}.RelDir(), name)
}

// clone returns a tree that can be changed without the other.
func (t *Tree) clone() *Tree {
	c := *t
	c.keys, c.groups, c.hashes = maps.Clone(t.keys), maps.Clone(t.groups), maps.Clone(t.hashes)
	c.entries = make(map[string]*Entry, len(t.entries))
	for p, e := range t.entries {
		c.entries[p] = e.clone()
	}
	return &c
}

func (t *Tree) abs(rel string) string { return filepath.Join(t.dir, filepath.FromSlash(rel)) }

func sortReaders(list []Reader) {
	slices.SortFunc(list, compareReaders)
}

func compareReaders(a, b Reader) int {
	switch {
	case a.Kind != b.Kind && a.Kind < b.Kind, a.Kind == b.Kind && a.Name < b.Name:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// regular says whether a path is a file, and no link to one.
func regular(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.Mode().IsRegular()
}

// directory says whether a path is a directory, and no link to one.
func directory(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}
