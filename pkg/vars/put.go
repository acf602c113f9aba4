package vars

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Modes of files, as clan writes them. git keeps only whether one is executable.
const (
	secretMode = 0o600
	publicMode = 0o644
)

// Access says who is to read a secret, besides whom its entry names already and the person
// who sets it.
type Access struct {
	// Machines are those that it is deployed to. One without a key gets one.
	Machines []string
	// Groups are the default groups.
	Groups []string
	// Undeployed says that no machine is to read it: those that its entry names are taken away.
	Undeployed bool
}

// PutSecret sets a secret: encrypted with a new data key to all readers of its entry, of
// access, and to the person. One that has this value for just these readers is left alone,
// since every encryption is another file. A public value of the entry is removed.
func (c *Change) PutSecret(entry string, value []byte, a Access) error {
	e, err := c.entry(entry)
	if err != nil {
		return err
	}
	if len(e.Bad) > 0 {
		return e.Bad[0]
	}
	person, err := c.t.Person(c.o.Identities, e.Links)
	if err != nil {
		return err
	}
	if err := c.grant(e, a); err != nil {
		return err
	}
	c.addLink(e, person)
	return c.seal(e, value)
}

// Fix gives an entry the links that access says, and its secret these readers: a machine
// that is new gets what is shared, one that is not to read it any more loses it. Links to
// machines that access does not name stay, unless it is undeployed. The value is the same;
// [Change.Exposed] says where that is not enough.
func (c *Change) Fix(entry string, a Access) error {
	e, ok := c.t.entries[entry]
	if !ok {
		return fmt.Errorf("%s: %w", entry, ErrNotFound)
	}
	if len(e.Bad) > 0 {
		return e.Bad[0]
	}
	if err := c.grant(e, a); err != nil {
		return err
	}
	return c.rewrap(e)
}

// grant makes the links of an access.
func (c *Change) grant(e *Entry, a Access) error {
	var want []Reader
	for _, g := range a.Groups {
		if _, err := c.t.Members(g); err != nil {
			return err
		}
		want = append(want, Reader{Groups, g})
	}
	if a.Undeployed {
		for _, r := range slices.Clone(e.Links) {
			if r.Kind == Machines {
				c.dropLink(e, r)
			}
		}
		a.Machines = nil
	}
	for _, m := range a.Machines {
		if err := c.MachineKey(m, a.Groups); err != nil {
			return err
		}
		want = append(want, Reader{Machines, m})
	}
	for _, r := range want {
		c.addLink(e, r)
	}
	return nil
}

// seal encrypts a value to the readers of an entry.
func (c *Change) seal(e *Entry, value []byte) error {
	to, err := c.recipients(e)
	if err != nil {
		return err
	}
	if same, err := c.holds(e, value, to); err != nil || same {
		return err
	}
	d, err := sops.Encrypt(value, to, c.o.Now())
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	c.put(path.Join(e.Path, "secret"), d.Bytes(), secretMode)
	delete(c.exposed, e.Path)
	e.Secret = true
	if e.Public {
		c.remove(path.Join(e.Path, "value"))
		e.Public = false
	}
	return nil
}

// holds says whether an entry has this value for these readers already. What cannot be
// opened, for whatever reason, is replaced.
func (c *Change) holds(e *Entry, value []byte, to []sops.Recipient) (bool, error) {
	if !e.Secret || e.Public {
		return false, nil
	}
	d, err := c.document(e)
	if err != nil {
		if errors.Is(err, sops.ErrFormat) || errors.Is(err, sops.ErrUnsupported) {
			return false, nil // It is replaced.
		}
		return false, err
	}
	same, err := d.Rewrap(nil, to)
	if err != nil || same != d || len(d.OtherRecipients()) > 0 {
		return false, nil //nolint:nilerr // Other readers: no identity was given to rewrap it with.
	}
	old, err := d.Decrypt(c.o.Identities...)
	return err == nil && bytes.Equal(old, value), nil
}

// PutPublic sets a public value. A secret of the entry is removed, with its links.
func (c *Change) PutPublic(id ID, value []byte) error {
	if len(value) > sops.MaxValue {
		return fmt.Errorf("%s: the value has %d bytes: at most %d can be kept", id, len(value), sops.MaxValue)
	}
	if err := id.Check(); err != nil {
		return err
	}
	e, err := c.entry(id.Path())
	if err != nil {
		return err
	}
	if e.Secret {
		c.remove(path.Join(e.Path, "secret"))
		e.Secret = false
	}
	for _, r := range slices.Clone(e.Links) {
		c.dropLink(e, r)
	}
	if old, err := c.Value(e.Path); err != nil || !bytes.Equal(old, value) {
		c.put(path.Join(e.Path, "value"), bytes.Clone(value), publicMode)
	}
	e.Public = true
	return nil
}

// SetValidationHash keeps what a generator's validation was; "" removes it.
func (c *Change) SetValidationHash(p Placement, generator, hash string) error {
	return c.setHash(p, generator, validationHash, hash)
}

// SetScriptHash keeps what a generator's script was, and what it read; "" removes it.
func (c *Change) SetScriptHash(p Placement, generator, hash string) error {
	return c.setHash(p, generator, scriptHash, hash)
}

func (c *Change) setHash(p Placement, generator, name, hash string) error {
	id := ID{p, generator, "any"}
	if err := id.Check(); err != nil {
		return err
	}
	file := hashPath(p, generator, name)
	switch hash {
	case c.t.hashes[file]:
	case "":
		c.remove(file)
		delete(c.t.hashes, file)
	default:
		c.put(file, []byte(hash), publicMode)
		c.t.hashes[file] = hash
	}
	return nil
}

// Delete removes an entry: its secret or value, and all links, refused ones among them.
func (c *Change) Delete(entry string) error {
	e, ok := c.t.entries[entry]
	if !ok {
		return fmt.Errorf("%s: %w", entry, ErrNotFound)
	}
	for name, has := range map[string]bool{"secret": e.Secret, "value": e.Public} {
		if has {
			c.remove(path.Join(entry, name))
		}
	}
	for _, r := range e.Links {
		c.unlink(entry, r)
	}
	for _, b := range e.Bad {
		c.remove(b.Path)
	}
	for _, w := range c.t.warnings {
		if errors.Is(w, errDangling) && path.Dir(path.Dir(w.Path)) == entry {
			c.remove(w.Path)
		}
	}
	delete(c.t.entries, entry)
	delete(c.exposed, entry)
	return nil
}

// MachineKey makes a key for a machine that has none: the private half, as its only line,
// becomes a secret of the person and the groups, which no machine reads.
func (c *Change) MachineKey(machine string, groups []string) error {
	r := Reader{Machines, machine}
	if _, ok := c.t.keys[r]; ok {
		return nil
	}
	if err := r.Check(); err != nil {
		return err
	}
	if e, ok := c.t.entries[MachineKeyPath(machine)]; ok && e.Secret {
		return fmt.Errorf("machine %s has a private key (%s) and no public one: restore sops/machines/%[1]s/key.json, or delete the private key to have a new one made", machine, e.Path)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("making a key for machine %s: %w", machine, err)
	}
	if err := c.PutSecret(MachineKeyPath(machine), []byte(id.String()), Access{Groups: groups, Undeployed: true}); err != nil {
		return err
	}
	return c.SetKeys(r, []Key{{id.Recipient().String(), AgeKey}})
}
