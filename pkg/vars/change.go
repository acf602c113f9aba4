package vars

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Options are what a change needs to know of who makes it.
type Options struct {
	// Identities are the private keys of who runs it. Adding or removing a reader of a
	// secret needs one that opens it.
	Identities []sops.Identity
	// Plugins makes recipients of plugins; nil refuses them by name.
	Plugins sops.Plugins
	// Now is the wall time; it becomes a document's time of change.
	Now func() time.Time
}

// Change is a set of writes of which all are made or none. It is for one goroutine.
type Change struct {
	o     Options
	t     *Tree // As it will be.
	lock  *treeLock
	steps map[string]step
	// exposed are the names of who lost what they could read, by entry.
	exposed map[string][]string
}

// Begin takes the lock of the tree in dir, ends what an interrupted change had begun, and
// opens the tree. While somebody else has the lock it waits for as long as ctx lives, and
// then returns ErrLocked. The caller must Close it.
func Begin(ctx context.Context, dir string, o Options) (*Change, error) {
	lock, err := takeLock(ctx, dir)
	if err != nil {
		return nil, err
	}
	c := &Change{o: o, lock: lock, steps: map[string]step{}, exposed: map[string][]string{}}
	if err := recoverChange(dir); err != nil {
		return nil, errors.Join(err, lock.give())
	}
	if c.t, err = Open(dir); err != nil {
		return nil, errors.Join(err, lock.give())
	}
	c.t = c.t.clone()
	return c, nil
}

// Close gives up what was not committed, and the lock. A second call does nothing.
func (c *Change) Close() error {
	lock := c.lock
	if lock == nil {
		return nil
	}
	c.lock = nil
	return lock.give()
}

// Tree is the tree as the change leaves it. Values that it sets are read by [Change.Read].
func (c *Change) Tree() *Tree { return c.t.clone() }

// Commit makes the change, and returns the paths that it wrote or removed, for git. Where it
// fails before the change was decided, nothing changed; after that, a disk that fails say,
// the next Begin goes on with it, and the error says so.
func (c *Change) Commit() ([]string, error) {
	if c.lock == nil {
		return nil, errors.New("the change is closed")
	}
	if len(c.steps) == 0 {
		return nil, nil
	}
	paths := slices.Sorted(maps.Keys(c.steps))
	if err := commit(c.t.dir, c.steps); err != nil {
		return nil, err
	}
	c.steps = map[string]step{}
	return paths, nil
}

// Exposed is a value that somebody can read no longer in this tree, and knows.
type Exposed struct {
	Entry Entry
	// Who are the readers by name, keys that nobody has among them.
	Who []string
}

// Exposed returns what must be generated anew, by path, because somebody who could read it
// is no reader any more: taking away a key does not take back what it opened.
func (c *Change) Exposed() []Exposed {
	var list []Exposed
	for _, p := range slices.Sorted(maps.Keys(c.exposed)) {
		list = append(list, Exposed{*c.t.entries[p].clone(), c.exposed[p]})
	}
	return list
}

func (c *Change) put(file string, data []byte, mode uint32) {
	c.steps[file] = step{Path: file, Do: doPut, Mode: mode, data: data}
}

func (c *Change) remove(file string) { c.steps[file] = step{Path: file, Do: doRemove} }

func (c *Change) link(dir string, r Reader) {
	p := path.Join(dir, string(r.Kind), r.Name)
	c.steps[p] = step{Path: p, Do: doLink, Target: linkTarget(p, r)}
}

func (c *Change) unlink(dir string, r Reader) { c.remove(path.Join(dir, string(r.Kind), r.Name)) }

// parseEntry reads an entry's path: vars/… or sops/secrets/NAME.
func parseEntry(p string) (ID, error) {
	f := strings.Split(p, "/")
	switch {
	case len(f) == 3 && f[0] == "sops" && f[1] == "secrets":
		return ID{}, checkSecretName(f[2])
	case len(f) == 4 && f[0] == "vars" && f[1] == shared:
		id := ID{Shared(), f[2], f[3]}
		return id, id.Check()
	case len(f) == 5 && f[0] == "vars" && f[1] != shared:
		id := ID{Placement{f[1], f[2]}, f[3], f[4]}
		return id, id.Check()
	}
	return ID{}, fmt.Errorf("%w: %.200q is no entry: want vars/… or sops/secrets/NAME", ErrName, p)
}

// ParseID reads what [ID.Path] writes.
func ParseID(p string) (ID, error) {
	id, err := parseEntry(p)
	if err == nil && id == (ID{}) {
		err = fmt.Errorf("%w: %.200q is of no generator", ErrName, p)
	}
	return id, err
}

// entry returns an entry for change, a new one if need be.
func (c *Change) entry(p string) (*Entry, error) {
	if e, ok := c.t.entries[p]; ok {
		return e, nil
	}
	id, err := parseEntry(p)
	if err != nil {
		return nil, err
	}
	e := &Entry{Path: p, ID: id}
	c.t.entries[p] = e
	return e, nil
}

// document is an entry's document, with what the change sets.
func (c *Change) document(e *Entry) (*sops.Document, error) {
	if s, ok := c.steps[path.Join(e.Path, "secret")]; ok && s.Do == doPut {
		return sops.Parse(s.data) //nolint:wrapcheck // It was made here.
	}
	return c.t.document(e)
}

// Read returns a secret as the change leaves it.
func (c *Change) Read(entry string) ([]byte, error) {
	if s, ok := c.steps[path.Join(entry, "secret")]; ok && s.Do == doPut {
		d, err := sops.Parse(s.data)
		if err != nil {
			return nil, err //nolint:wrapcheck // It was made here.
		}
		return d.Decrypt(c.o.Identities...) //nolint:wrapcheck // As above.
	}
	return c.t.Read(entry, c.o.Identities)
}

// Value returns a public value as the change leaves it.
func (c *Change) Value(entry string) ([]byte, error) {
	if s, ok := c.steps[path.Join(entry, "value")]; ok && s.Do == doPut {
		return slices.Clone(s.data), nil
	}
	return c.t.Value(entry)
}

// recipients are those of an entry, to encrypt to.
func (c *Change) recipients(e *Entry) ([]sops.Recipient, error) {
	texts, err := c.t.recipientsOf(e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	if len(texts) == 0 {
		return nil, fmt.Errorf("%s: nobody would be able to read it: add a reader, or delete it", e.Path)
	}
	list := make([]sops.Recipient, 0, len(texts))
	for _, text := range texts {
		r, err := sops.ParseRecipient(text, c.o.Plugins)
		if err != nil {
			return nil, fmt.Errorf("%s, for %s: %w", e.Path, c.t.NameKey(text), err)
		}
		list = append(list, r)
	}
	return list, nil
}

// Version tells an entry's values apart, as the change leaves it, without telling anything
// of a secret one; ErrNotFound where there is none.
func (c *Change) Version(entry string) (string, error) {
	e, ok := c.t.entries[entry]
	if !ok {
		return "", fmt.Errorf("%s: %w", entry, ErrNotFound)
	}
	if e.Secret {
		d, err := c.document(e)
		if err != nil {
			return "", err
		}
		return d.Version(), nil
	}
	value, err := c.Value(entry)
	return publicVersion(value), err
}

// Version is that of [Change.Version].
func (t *Tree) Version(entry string) (string, error) {
	e, err := t.Entry(entry)
	if err != nil {
		return "", err
	}
	if e.Secret {
		d, err := t.document(&e)
		if err != nil {
			return "", err
		}
		return d.Version(), nil
	}
	value, err := t.Value(entry)
	return publicVersion(value), err
}

func publicVersion(value []byte) string {
	sum := sha256.Sum256(value)
	return hex.EncodeToString(sum[:])
}
