package vars

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

// Document returns an entry's document, encrypted; ErrNotFound where it has none.
func (t *Tree) Document(entry string) (*sops.Document, error) {
	e, err := t.Entry(entry)
	if err != nil {
		return nil, err
	}
	return t.document(&e)
}

func (t *Tree) document(e *Entry) (*sops.Document, error) {
	if !e.Secret {
		return nil, fmt.Errorf("%s: its secret is %w; generate or set it", e.Path, ErrNotFound)
	}
	file := path.Join(e.Path, "secret")
	if !regular(t.abs(file)) {
		return nil, fmt.Errorf("%s: %w: it is no file any more", file, ErrLink)
	}
	data, err := atomicfile.ReadAtMost(t.abs(file), sops.MaxDocument)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the file.
	}
	d, err := sops.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it from the repository's history", file, err)
	}
	return d, nil
}

// Read returns the secret of an entry, with the private keys of who asks.
func (t *Tree) Read(entry string, ids []sops.Identity) ([]byte, error) {
	d, err := t.Document(entry)
	if err != nil {
		return nil, err
	}
	value, err := d.Decrypt(ids...)
	if err != nil {
		return nil, fmt.Errorf("%s/secret: %w%s", entry, err, t.whoCan(d, err))
	}
	return value, nil
}

// whoCan says what to do where none of the keys opened a document.
func (t *Tree) whoCan(d *sops.Document, err error) string {
	if !errors.Is(err, sops.ErrNoIdentity) {
		return ""
	}
	var who []string
	for _, r := range d.Recipients() {
		if n := t.NameKey(r); !slices.Contains(who, n) {
			who = append(who, n)
		}
	}
	slices.Sort(who)
	return fmt.Sprintf("; it is for %q: ask one of them to add you", who)
}

// Value returns the public value of an entry, as the generator wrote it.
func (t *Tree) Value(entry string) ([]byte, error) {
	e, err := t.Entry(entry)
	if err != nil {
		return nil, err
	}
	file := path.Join(e.Path, "value")
	if !e.Public || !regular(t.abs(file)) {
		return nil, fmt.Errorf("%s: its value is %w; generate or set it", entry, ErrNotFound)
	}
	return atomicfile.ReadAtMost(t.abs(file), sops.MaxValue) //nolint:wrapcheck // It names the file.
}
