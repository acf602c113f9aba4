// Package sops reads and writes documents of sops that hold one value of any bytes: its
// "binary" form, in which clan keeps secrets. It is as strict as sops and stricter: what
// sops would not have written is refused, the MAC is always checked. Of recipients it knows
// those of age; others in a file are named and kept.
//
// Files of sops with many values (YAML, JSON) are read by package plain.
//
// A document says in clear who can read it and how long its value is. Removing a recipient
// protects the next value only: who could read this one has it.
package sops

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops/internal/jsontree"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/seal"
)

const (
	// MaxValue bounds a plaintext, in bytes: as many as a host takes of one secret.
	MaxValue = 1 << 20
	// MaxDocument bounds a file, in bytes: the largest value in base64, and many recipients.
	MaxDocument = 2*MaxValue + 2<<20
	// FormatVersion is the version of sops whose form is written.
	FormatVersion = "3.13.3"
)

// aad is what a document's one value is bound to: its key, as a path.
const aad = "data:"

// Sentinels that errors of this package wrap. A retry changes none of them.
var (
	ErrFormat      = seal.ErrFormat
	ErrTampered    = seal.ErrTampered
	ErrNoIdentity  = seal.ErrNoIdentity
	ErrUnsupported = seal.ErrUnsupported
)

// Keys of age, from package seal.
type (
	// Recipient is somebody that a document is encrypted to.
	Recipient = seal.Recipient
	// Identity is a private key.
	Identity = seal.Identity
	// Plugins makes keys of age's plugins; package ageplugin has one that starts them.
	Plugins = seal.Plugins
)

// ParseRecipient reads a public key: age1…, age1pq1…, ssh-ed25519 …, ssh-rsa …, and with
// plugins age1NAME1…. plugins may be nil.
func ParseRecipient(text string, plugins Plugins) (Recipient, error) {
	return seal.ParseRecipient(text, plugins)
}

// ParseIdentities reads private keys: lines as age-keygen writes them, lines of plugins, or
// one SSH private key without a passphrase. plugins may be nil. No error has a key in it.
func ParseIdentities(text []byte, plugins Plugins) ([]Identity, error) {
	return seal.ParseIdentities(text, plugins)
}

// Canonical is equal for two texts of one public key, of which an SSH one may have a comment.
func Canonical(recipient string) string { return seal.Canonical(recipient) }

// Document is a document, whose value is encrypted. It does not change.
type Document struct {
	root *jsontree.Value
	meta *seal.Metadata
	// value is nil where the plaintext is empty.
	value *seal.Value
}

// Parse reads a document. It needs no key, so that nothing is known of its authenticity
// before Decrypt: who may write the file may write any recipients into it.
func Parse(data []byte) (*Document, error) {
	root, err := jsontree.Parse(data, MaxDocument)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if root.Kind != jsontree.Object {
		return nil, fmt.Errorf("%w: it is %s, not an object", ErrFormat, root.Kind)
	}
	for _, m := range root.Members {
		if m.Key != "data" && m.Key != "sops" {
			return nil, fmt.Errorf("%w of one value: it has a key %.40q beside \"data\" and \"sops\"", ErrFormat, m.Key)
		}
	}
	d := &Document{root: root}
	if d.meta, err = seal.ParseMetadata(root.Get("sops")); err != nil {
		return nil, err
	}
	data1 := root.Get("data")
	if data1 == nil || data1.Kind != jsontree.String {
		return nil, fmt.Errorf("%w of one value: it has no string \"data\"", ErrFormat)
	}
	text, _ := data1.Text()
	if text == "" {
		return d, nil
	}
	v, err := seal.ParseValue(text)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	if v.Type != seal.Str {
		return nil, fmt.Errorf("%w of one value: its data is of type %s, and str is what sops writes", ErrFormat, v.Type)
	}
	if v.Size() > MaxValue {
		return nil, fmt.Errorf("%w: the value has %d bytes, at most %d are read", ErrFormat, v.Size(), MaxValue)
	}
	d.value = &v
	return d, nil
}

// Encrypt makes a document of a value, with a data key that no other document has. Who is
// named twice is a recipient once. now becomes the time of its last change.
func Encrypt(value []byte, to []Recipient, now time.Time) (*Document, error) {
	if len(value) > MaxValue {
		return nil, fmt.Errorf("the value has %d bytes: at most %d can be a secret", len(value), MaxValue)
	}
	key := seal.NewDataKey()
	stanzas, err := key.Rewrap(to)
	if err != nil {
		return nil, err
	}
	data, err := key.Seal(value, seal.Str, aad)
	if err != nil {
		return nil, err
	}
	mac := seal.NewMAC(false)
	_, _ = mac.Write(value) // A hash takes all.
	modified := now.UTC().Format(time.RFC3339)
	sealedMAC, err := key.Seal([]byte(mac.String()), seal.Str, modified)
	if err != nil {
		return nil, err
	}
	meta := jsontree.NewObject("age", seal.Array(stanzas), "lastmodified", jsontree.NewString(modified),
		"mac", jsontree.NewString(sealedMAC), "version", jsontree.NewString(FormatVersion))
	return Parse(jsontree.NewObject("data", jsontree.NewString(data), "sops", meta).Bytes())
}

// Bytes returns the file: of a document that sops wrote, byte for byte what was read.
func (d *Document) Bytes() []byte { return d.root.Bytes() }

// Recipients returns the public keys of age that the file names, in its order. No key is
// needed, and so nothing vouches for them.
func (d *Document) Recipients() []string {
	list := make([]string, 0, len(d.meta.Age))
	for _, s := range d.meta.Age {
		list = append(list, s.Recipient)
	}
	return list
}

// OtherRecipients returns the recipients that are not age's: "pgp FINGERPRINT", "kms ARN".
func (d *Document) OtherRecipients() []string { return d.meta.Others }

// Size is the number of bytes of the value.
func (d *Document) Size() int {
	if d.value == nil {
		return 0
	}
	return d.value.Size()
}

// Decrypt returns the value, and checks that nothing of it was changed. Errors wrap
// ErrNoIdentity where the identities are none of its recipients', ErrTampered where data,
// MAC or time were changed.
func (d *Document) Decrypt(ids ...Identity) ([]byte, error) {
	_, value, err := d.open(ids)
	return value, err
}

func (d *Document) open(ids []Identity) (*seal.DataKey, []byte, error) {
	if encrypted, err := d.meta.Rule.Encrypted([]string{"data"}); err != nil {
		return nil, nil, err
	} else if !encrypted {
		return nil, nil, fmt.Errorf("%w of one value: its rule says that the value is not encrypted", ErrFormat)
	}
	key, err := seal.Unwrap(d.meta.Age, ids)
	if err != nil {
		return nil, nil, err
	}
	value := []byte{}
	if d.value != nil {
		if value, err = key.Open(*d.value, aad); err != nil {
			return nil, nil, fmt.Errorf("its data was %w", err)
		}
	}
	mac := seal.NewMAC(d.meta.EncryptedOnly)
	_, _ = mac.Write(value) // A hash takes all.
	if err := d.meta.CheckMAC(key, mac); err != nil {
		return nil, nil, err
	}
	return key, value, nil
}

// Rewrap returns the document for other recipients: value, MAC, times and what is not known
// here stay, the data key is wrapped anew for each. One that has these recipients is
// returned as it is. Recipients of other kinds than age's stay.
//
// Who is no recipient any more keeps what they knew: only a new value, of Encrypt, is
// hidden from them.
func (d *Document) Rewrap(ids []Identity, to []Recipient) (*Document, error) {
	if seal.SameRecipients(d.meta.Age, to) {
		return d, nil
	}
	key, _, err := d.open(ids)
	if err != nil {
		return nil, err
	}
	stanzas, err := key.Rewrap(to)
	if err != nil {
		return nil, err
	}
	root := d.root.Clone()
	meta := root.Get("sops")
	meta.Set("age", seal.Array(stanzas))
	if key, pattern, ok := d.meta.Rule.Default(); ok { // As sops updatekeys does.
		meta.Set(key, jsontree.NewString(pattern))
	}
	return Parse(root.Bytes())
}

// Version tells values apart without a key: it is another one for whatever was encrypted
// anew, and the same after other readers were given it. It is of what is encrypted, and so
// says nothing about the value.
func (d *Document) Version() string {
	sum := sha256.New()
	for _, v := range []*jsontree.Value{d.root.Get("data"), d.root.Get("sops").Get("mac")} {
		text := ""
		if v != nil {
			text, _ = v.Text()
		}
		_, _ = fmt.Fprintf(sum, "%d %s", len(text), text) // A hash takes all.
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Modified is when the value was encrypted, by the clock of who did it; nothing vouches for
// it before Decrypt. It is zero where the document does not say it.
func (d *Document) Modified() time.Time {
	if v := d.root.Get("sops").Get("lastmodified"); v != nil {
		if text, ok := v.Text(); ok {
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				return at.UTC()
			}
		}
	}
	return time.Time{}
}
