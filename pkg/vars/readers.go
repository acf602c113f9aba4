package vars

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

func (c *Change) addLink(e *Entry, r Reader) {
	if !slices.Contains(e.Links, r) {
		e.Links = union(e.Links, []Reader{r})
		c.link(e.Path, r)
	}
}

func (c *Change) dropLink(e *Entry, r Reader) {
	e.Links = slices.DeleteFunc(slices.Clone(e.Links), func(l Reader) bool { return l == r })
	c.unlink(e.Path, r)
}

// known says whether there is such a reader.
func (c *Change) known(r Reader) error {
	if err := r.Check(); err != nil {
		return err
	}
	if _, ok := c.t.groups[r.Name]; ok && r.Kind == Groups {
		return nil
	}
	if _, ok := c.t.keys[r]; ok {
		return nil
	}
	return fmt.Errorf("%s: %w; add it first", r, ErrNotFound)
}

// rewrap encrypts an entry's data key to the readers it has now.
func (c *Change) rewrap(e *Entry) error {
	if !e.Secret {
		return nil
	}
	to, err := c.recipients(e)
	if err != nil {
		return err
	}
	old, err := c.document(e)
	if err != nil {
		return err
	}
	d, err := old.Rewrap(c.o.Identities, to)
	if err != nil {
		return fmt.Errorf("%s/secret: %w%s", e.Path, err, c.t.whoCan(old, err))
	}
	if d == old {
		return nil
	}
	now := map[string]bool{}
	for _, r := range d.Recipients() {
		now[sops.Canonical(r)] = true
	}
	for _, r := range old.Recipients() {
		if !now[sops.Canonical(r)] {
			c.expose(e.Path, c.t.NameKey(r), r)
		}
	}
	c.put(path.Join(e.Path, "secret"), d.Bytes(), secretMode)
	return nil
}

func (c *Change) expose(entry, name, key string) {
	who := fmt.Sprintf("%s (%s)", name, key)
	if !slices.Contains(c.exposed[entry], who) {
		c.exposed[entry] = append(c.exposed[entry], who)
		slices.Sort(c.exposed[entry])
	}
}

// AddReader lets a user, machine or group read an entry's secret.
func (c *Change) AddReader(entry string, r Reader) error {
	e, ok := c.t.entries[entry]
	if !ok {
		return fmt.Errorf("%s: %w", entry, ErrNotFound)
	}
	if err := c.known(r); err != nil {
		return err
	}
	c.addLink(e, r)
	return c.rewrap(e)
}

// RemoveReader takes a reader away. [Change.Exposed] says afterwards what must be generated
// anew; nothing of it is there where the reader still reads through a group.
func (c *Change) RemoveReader(entry string, r Reader) error {
	e, ok := c.t.entries[entry]
	if !ok {
		return fmt.Errorf("%s: %w", entry, ErrNotFound)
	}
	if !slices.Contains(e.Links, r) {
		return fmt.Errorf("%s: %s: %w among its readers%s", entry, r, ErrNotFound, c.through(e, r))
	}
	c.dropLink(e, r)
	return c.rewrap(e)
}

// through says by which group somebody reads.
func (c *Change) through(e *Entry, r Reader) string {
	for _, g := range e.Links {
		if g.Kind == Groups && slices.Contains(c.t.groups[g.Name], r) {
			return fmt.Sprintf("; it reads through group %s: take it out of that", g.Name)
		}
	}
	return ""
}

// rewrapOf rewraps all entries that readers of these links read.
func (c *Change) rewrapOf(concerned func(Reader) bool) error {
	var errs []error
	for _, p := range slices.Sorted(maps.Keys(c.t.entries)) {
		if e := c.t.entries[p]; slices.ContainsFunc(e.Links, concerned) {
			errs = append(errs, c.rewrap(e))
		}
	}
	return errors.Join(errs...)
}

// reads says for which links an entry is read by r: to itself, and to its groups.
func (c *Change) reads(r Reader) func(Reader) bool {
	return func(l Reader) bool {
		return l == r || l.Kind == Groups && slices.Contains(c.t.groups[l.Name], r)
	}
}

// SetKeys gives a user or a machine its public keys, and re-keys all that it reads. A
// machine has one.
func (c *Change) SetKeys(r Reader, keys []Key) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Kind == Groups {
		return fmt.Errorf("%w: %s has no keys of its own", ErrName, r)
	}
	if r.Kind == Machines && len(keys) != 1 {
		return fmt.Errorf("%s: %d keys: a machine has just one", r, len(keys))
	}
	data, err := FormatKeys(keys)
	if err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	if slices.Equal(keys, c.t.keys[r]) {
		return nil
	}
	if c.t.keys[r], err = ParseKeys(data); err != nil {
		return fmt.Errorf("%s: %w", r, err)
	}
	c.put(path.Join(r.path(), "key.json"), data, publicMode)
	return c.rewrapOf(c.reads(r))
}

// AddMember puts a user or machine into a group, which comes to be with its first, and
// re-keys all that the group reads.
func (c *Change) AddMember(group string, r Reader) error {
	g := Reader{Groups, group}
	if err := g.Check(); err != nil {
		return err
	}
	if r.Kind == Groups {
		return fmt.Errorf("%w: groups have users and machines, not groups", ErrName)
	}
	if err := c.known(r); err != nil {
		return err
	}
	if slices.Contains(c.t.groups[group], r) {
		return nil
	}
	c.t.groups[group] = union(c.t.groups[group], []Reader{r})
	c.link(g.path(), r)
	return c.rewrapOf(func(l Reader) bool { return l == g })
}

// RemoveMember takes a user or machine out of a group, and re-keys all that the group reads.
func (c *Change) RemoveMember(group string, r Reader) error {
	if !slices.Contains(c.t.groups[group], r) {
		return fmt.Errorf("group %s: %s: %w", group, r, ErrNotFound)
	}
	c.t.groups[group] = slices.DeleteFunc(slices.Clone(c.t.groups[group]), func(m Reader) bool { return m == r })
	c.unlink(path.Join("sops", "groups", group), r)
	return c.rewrapOf(func(l Reader) bool { return l == Reader{Groups, group} })
}

// Remove removes a user, machine or group from the tree: its keys, its memberships and all
// links to it. It fails where that leaves a secret without a reader. Values of a machine
// stay; delete them by themselves.
func (c *Change) Remove(r Reader) error {
	if err := c.known(r); err != nil {
		return err
	}
	concerned := c.reads(r)
	var touched []*Entry
	for _, p := range slices.Sorted(maps.Keys(c.t.entries)) {
		if e := c.t.entries[p]; slices.ContainsFunc(e.Links, concerned) {
			touched = append(touched, e)
		}
	}
	for name, members := range c.t.groups {
		if slices.Contains(members, r) {
			c.t.groups[name] = slices.DeleteFunc(slices.Clone(members), func(m Reader) bool { return m == r })
			c.unlink(path.Join("sops", "groups", name), r)
		}
	}
	for _, e := range touched {
		if slices.Contains(e.Links, r) {
			c.dropLink(e, r)
		}
	}
	if r.Kind == Groups {
		for _, m := range c.t.groups[r.Name] {
			c.unlink(r.path(), m)
		}
		delete(c.t.groups, r.Name)
	} else {
		c.remove(path.Join(r.path(), "key.json"))
	}
	var errs []error
	for _, e := range touched {
		errs = append(errs, c.rewrap(e)) // The keys are still known, so that it can be said whose they were.
	}
	delete(c.t.keys, r)
	return errors.Join(errs...)
}

// Rekeyed is what [Change.Rekey] did.
type Rekeyed struct {
	// Changed are the entries with other recipients now.
	Changed []string
	// Left are those that none of the private keys opens, or that are refused.
	Left []Problem
}

// Rekey makes the recipients of every document those that links come to, and removes links
// that point at nothing. What cannot be opened is named and left.
func (c *Change) Rekey() Rekeyed {
	var done Rekeyed
	for _, w := range c.t.warnings {
		if errors.Is(w, errDangling) {
			c.remove(w.Path)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.t.entries)) {
		before := c.steps[path.Join(p, "secret")].data
		if err := c.rewrap(c.t.entries[p]); err != nil {
			done.Left = append(done.Left, Problem{p, err})
		} else if !slices.Equal(before, c.steps[path.Join(p, "secret")].data) {
			done.Changed = append(done.Changed, p)
		}
	}
	return done
}
