// Package plain reads files of sops with many values, YAML and JSON, as they lie beside
// programs' settings under rules of .sops.yaml: who can read them, what they hold, and how
// they are encrypted to other keys. What is in them is changed with sops itself. Other
// forms (dotenv, INI) and what cannot be handled are refused by name.
//
// The agent does not link it.
package plain

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/jsontree"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/seal"
)

// MaxFile bounds a file, in bytes.
const MaxFile = 4 << 20

// ErrClear is a file without sops's metadata: it is not encrypted.
var ErrClear = errors.New("not encrypted by sops")

// Format is the form of a file.
type Format string

// The forms that are read.
const (
	YAML Format = "yaml"
	JSON Format = "json"
)

// FormatOf says by a file's name what sops takes it for. Forms that are not read here are
// ErrUnsupported.
func FormatOf(name string) (Format, error) {
	switch ext := path.Ext(name); ext {
	case ".yaml", ".yml":
		return YAML, nil
	case ".json":
		return JSON, nil
	case ".env", ".ini":
		return "", fmt.Errorf("%w: files of sops that end in %s; re-key it with sops updatekeys", sops.ErrUnsupported, ext)
	}
	return "", fmt.Errorf("%w: files of sops that end neither in .yaml nor in .json; re-key it with sops updatekeys", sops.ErrUnsupported)
}

// File is an encrypted file. It does not change.
type File struct {
	data   []byte
	format Format
	root   *jsontree.Value
	meta   *seal.Metadata
}

// Parse reads a file.
func Parse(data []byte, format Format) (*File, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", sops.ErrFormat, len(data), MaxFile)
	}
	f := &File{data: data, format: format}
	var err error
	switch format {
	case YAML:
		f.root, err = readYAML(data)
	case JSON:
		f.root, err = jsontree.Parse(data, MaxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sops.ErrFormat, err)
	}
	if f.root == nil || f.root.Kind != jsontree.Object {
		return nil, fmt.Errorf("%w: it is no map of names to values", sops.ErrFormat)
	}
	if f.root.Get("sops") == nil {
		return nil, ErrClear
	}
	if f.meta, err = seal.ParseMetadata(f.root.Get("sops")); err != nil {
		return nil, err //nolint:wrapcheck // It says what is wrong.
	}
	return f, nil
}

// Bytes returns the file.
func (f *File) Bytes() []byte { return f.data }

// Recipients returns the public keys of age that the file names. Nothing vouches for them.
func (f *File) Recipients() []string {
	list := make([]string, 0, len(f.meta.Age))
	for _, s := range f.meta.Age {
		list = append(list, s.Recipient)
	}
	return list
}

// OtherRecipients returns the recipients of other kinds: "pgp FINGERPRINT", "kms ARN".
func (f *File) OtherRecipients() []string { return f.meta.Others }

// Leaf is a value of a file.
type Leaf struct {
	// Path are the keys to it; elements of a list have the list's path.
	Path []string
	// Value is its text; of a number or boolean as sops writes it.
	Value string
	// Type is str, int, float, bool, bytes or time.
	Type string
	// Clear says that it is not encrypted in the file.
	Clear bool
}

// Decrypt returns all values, in the file's order, and checks that none was changed, added,
// removed or moved. Comments are left out.
func (f *File) Decrypt(ids ...sops.Identity) ([]Leaf, error) {
	_, leaves, err := f.open(ids)
	return leaves, err
}

func (f *File) open(ids []sops.Identity) (*seal.DataKey, []Leaf, error) {
	key, err := seal.Unwrap(f.meta.Age, ids)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // It says what is wrong.
	}
	leaves, err := f.leaves(key)
	return key, leaves, err
}

// leaves opens all values, and checks the MAC over them.
func (f *File) leaves(key *seal.DataKey) ([]Leaf, error) {
	w := walker{key: key, meta: f.meta, mac: seal.NewMAC(f.meta.EncryptedOnly)}
	for _, m := range f.root.Members {
		if m.Key == "sops" {
			continue
		}
		if err := w.value(m.Value, []string{m.Key}); err != nil {
			return nil, err
		}
	}
	if err := f.meta.CheckMAC(key, w.mac); err != nil {
		return nil, err //nolint:wrapcheck // It says what is wrong.
	}
	return w.leaves, nil
}

// Rewrap returns the file for other recipients: everything else stays as it is, in YAML byte
// for byte. One that has these recipients is returned as it is; recipients of other kinds stay.
func (f *File) Rewrap(ids []sops.Identity, to []sops.Recipient) (*File, error) {
	if seal.SameRecipients(f.meta.Age, to) {
		return f, nil
	}
	key, _, err := f.open(ids)
	if err != nil {
		return nil, err
	}
	stanzas, err := key.Rewrap(to)
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what is wrong.
	}
	var data []byte
	switch f.format {
	case YAML:
		data, err = spliceYAML(f.data, stanzas)
	case JSON:
		root := f.root.Clone()
		root.Get("sops").Set("age", seal.Array(stanzas))
		data = root.Bytes()
	}
	if err != nil {
		return nil, err
	}
	// What was written is read again before anybody relies on it.
	again, err := Parse(data, f.format)
	if err == nil && (!seal.SameRecipients(again.meta.Age, to) || !again.same(f)) {
		err = fmt.Errorf("%w: the file's form", sops.ErrUnsupported)
	}
	if err == nil {
		_, err = again.leaves(key)
	}
	if err != nil {
		return nil, fmt.Errorf("re-keying would damage it, so that nothing was changed; use sops updatekeys: %w", err)
	}
	return again, nil
}

// same says that a file holds just what another does.
func (f *File) same(other *File) bool {
	a, b := f.root.Clone(), other.root.Clone()
	a.Set("sops", jsontree.NewString(""))
	b.Set("sops", jsontree.NewString(""))
	return bytes.Equal(a.Bytes(), b.Bytes())
}

// where names a leaf in errors; its value is not in there.
func where(path []string) string { return fmt.Sprintf("%.200q", strings.Join(path, ".")) }
