package vars

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Legacy is a value in an older layout:
//
//	sops/machines/MACHINE/secrets/GENERATOR.FILE   a document of sops
//	sops/machines/MACHINE/facts/GENERATOR.FILE     public
//	sops/shared/GENERATOR/FILE                     either
//
// Each may also be a directory with the file "secret" or "value", and links.
type Legacy struct {
	// Path is where it is.
	Path string
	// ID is what it is today; the zero ID where Err says why that is not known.
	ID     ID
	Secret bool
	Err    error

	file  string // Path, or the file in it.
	links []Reader
	// lie are the paths that go away with it.
	lie []string
}

// Generators returns the generators that a placement has, to tell where a generator's name
// ends and a file's begins: both may have dots. nil knows none.
type Generators func(Placement) []string

// Legacy returns what lies in older layouts, by path.
func (t *Tree) Legacy(known Generators) ([]Legacy, error) {
	s := scanner{t: t.clone(), left: maxEntriesInAll}
	var list []Legacy
	add := func(p string, l Legacy) error {
		e, err := s.legacy(p, l)
		if err == nil && e != nil {
			list = append(list, *e)
		}
		return err
	}
	err := s.dirs("sops/machines", func(machine, rel string) error {
		for _, kind := range []string{"facts", "secrets"} {
			files, err := s.list(path.Join(rel, kind))
			if err != nil {
				return err
			}
			for _, d := range files {
				id, err := splitName(PerMachine(machine), d.Name(), known)
				if err := add(path.Join(rel, kind, d.Name()), Legacy{ID: id, Secret: kind == "secrets", Err: err}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading older layouts: %w", err)
	}
	err = s.dirs("sops/shared", func(generator, rel string) error {
		files, err := s.list(rel)
		for _, d := range files {
			id := ID{Shared(), generator, d.Name()}
			l := Legacy{ID: id, Err: id.Check()}
			if err = add(path.Join(rel, d.Name()), l); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading older layouts: %w", err)
	}
	return list, nil
}

// splitName finds generator and file in GENERATOR.FILE: the longest generator that is known,
// else the only way to split it.
func splitName(p Placement, name string, known Generators) (ID, error) {
	var best ID
	if known != nil {
		for _, g := range known(p) {
			if file, ok := strings.CutPrefix(name, g+"."); ok && len(g) > len(best.Generator) {
				best = ID{p, g, file}
			}
		}
	}
	if best.Generator == "" {
		generator, file, ok := strings.Cut(name, ".")
		if !ok || strings.Contains(file, ".") {
			return ID{}, fmt.Errorf("%w: %.100q is GENERATOR.FILE in more than one way, or in none, and no generator is declared that begins it; declare it, or move the file yourself", ErrName, name)
		}
		best = ID{p, generator, file}
	}
	if err := best.Check(); err != nil {
		return ID{}, err
	}
	return best, nil
}

// legacy completes an older value; nil where nothing is there that is one.
func (s *scanner) legacy(p string, l Legacy) (*Legacy, error) {
	l.Path, l.file = p, p
	if directory(s.t.abs(p)) {
		if err := s.entry(p, ID{Shared(), "any", "any"}); err != nil {
			return nil, err
		}
		e := s.t.entries[p]
		if len(e.Bad) > 0 {
			l.Err = errors.Join(l.Err, e.Bad[0])
		}
		l.links, l.file = e.Links, path.Join(p, "value")
		if e.Secret {
			l.file = path.Join(p, "secret")
		}
		for _, r := range e.Links {
			l.lie = append(l.lie, path.Join(p, string(r.Kind), r.Name))
		}
	}
	if !regular(s.t.abs(l.file)) {
		return nil, nil
	}
	l.lie = append(l.lie, l.file)
	data, err := atomicfile.ReadAtMost(s.t.abs(l.file), sops.MaxDocument)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the file.
	}
	_, err = sops.Parse(data)
	switch {
	case err == nil:
		l.Secret = true
	case l.Secret:
		l.Err = errors.Join(l.Err, fmt.Errorf("a secret is wanted here: %w; if it is in clear, everybody with the repository has it: make a new one", err))
	case bytes.Contains(data, []byte("ENC[AES256_GCM,")):
		l.Err = errors.Join(l.Err, fmt.Errorf("%w; restore it from the repository's history", err))
	}
	return &l, nil
}

// ReadLegacy returns an older value, a secret with the private keys of who asks.
func (t *Tree) ReadLegacy(l Legacy, ids []sops.Identity) ([]byte, error) {
	data, err := atomicfile.ReadAtMost(t.abs(l.file), sops.MaxDocument)
	if err != nil || !l.Secret {
		return data, err //nolint:wrapcheck // It names the file.
	}
	d, err := sops.Parse(data)
	if err != nil {
		return nil, at(l.file, err)
	}
	value, err := d.Decrypt(ids...)
	return value, at(l.file, err)
}

// Migrate moves values of older layouts to where they are today. Documents stay byte for
// byte; their links are the old ones, or else the users and machines whose keys they name.
// Recipients that no key.json has stay in the document, and Check names them. It returns
// what moved. Where one cannot be moved it fails, naming each, and nothing should be committed.
func (c *Change) Migrate(known Generators) ([]Legacy, error) {
	list, err := c.t.Legacy(known)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, l := range list {
		if err := c.migrate(l); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.Path, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return list, nil
}

func (c *Change) migrate(l Legacy) error {
	if l.Err != nil {
		return l.Err
	}
	data, err := atomicfile.ReadAtMost(c.t.abs(l.file), sops.MaxDocument)
	if err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	name := "value"
	if l.Secret {
		name = "secret"
	}
	to := path.Join(l.ID.Path(), name)
	e, err := c.entry(l.ID.Path())
	if err != nil {
		return err
	}
	if e.Secret || e.Public {
		there, err := atomicfile.ReadAtMost(c.t.abs(to), sops.MaxDocument)
		if err != nil || !bytes.Equal(there, data) {
			return fmt.Errorf("%s has another value: delete the one that does not count", l.ID.Path())
		}
	} else if l.Secret {
		links := l.links
		if len(links) == 0 {
			if links, err = c.linksOf(data); err != nil {
				return err
			}
		}
		c.put(to, data, secretMode)
		for _, r := range links {
			c.addLink(e, r)
		}
		e.Secret = true
	} else {
		c.put(to, data, publicMode)
		e.Public = true
	}
	for _, p := range l.lie {
		c.remove(p)
	}
	return nil
}

// linksOf are the readers whose keys a document names; of users with one key the first.
func (c *Change) linksOf(document []byte) ([]Reader, error) {
	d, err := sops.Parse(document)
	if err != nil {
		return nil, err //nolint:wrapcheck // The caller names the file.
	}
	var links []Reader
	for _, recipient := range d.Recipients() {
		for _, kind := range []Kind{Machines, Users} {
			readers := c.t.Readers(kind)
			i := slices.IndexFunc(readers, func(r Reader) bool {
				return slices.ContainsFunc(c.t.keys[r], func(k Key) bool { return sops.Canonical(k.PublicKey) == sops.Canonical(recipient) })
			})
			if i >= 0 {
				links = union(links, readers[i:i+1])
			}
		}
	}
	return links, nil
}
