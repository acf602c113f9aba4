// Package seal is what all sops documents have in common: values and MACs sealed with a
// data key, and the data key wrapped for each recipient in an age file of its own.
package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/pkg/bech32"
)

// MaxIdentities bounds a text of private keys.
const MaxIdentities = 64 << 10

// Recipient is somebody that a data key is wrapped for.
type Recipient struct {
	age.Recipient
	// Text is the public key as it stands in files: age1…, ssh-ed25519 …, ssh-rsa ….
	Text string
}

// Identity is a private key.
type Identity struct {
	age.Identity
	// Recipient is the text of its public key; "" where that is not known.
	Recipient string
}

// Plugins makes keys of age's plugins, which are programs on the PATH. Who gives none
// starts none.
type Plugins interface {
	Recipient(text string) (age.Recipient, error)
	Identity(text string) (age.Identity, error)
}

// Canonical is equal for two texts of the same public key: SSH keys may have a comment.
func Canonical(text string) string {
	f := strings.Fields(text)
	if len(f) > 2 && strings.HasPrefix(f[0], "ssh-") {
		f = f[:2]
	}
	return strings.Join(f, " ")
}

// ParseRecipient reads a public key. plugins may be nil.
func ParseRecipient(text string, plugins Plugins) (Recipient, error) {
	text = strings.TrimSpace(text)
	var r age.Recipient
	var err error
	switch {
	case strings.HasPrefix(text, "ssh-"):
		r, err = agessh.ParseRecipient(text)
	case strings.HasPrefix(text, "age1pq1"):
		r, err = age.ParseHybridRecipient(text)
	case strings.HasPrefix(text, "age1") && strings.LastIndexByte(text, '1') > len("age"):
		// age1NAME1…: letters of bech32's data have no 1.
		if plugins == nil {
			return Recipient{}, fmt.Errorf("public key %.100q is of a plugin: %w", text, ErrUnsupported)
		}
		r, err = plugins.Recipient(text)
	case strings.HasPrefix(text, "age1"):
		r, err = age.ParseX25519Recipient(text)
	case strings.HasPrefix(text, "AGE-"):
		return Recipient{}, errors.New("this is a private key: a public one (age1…, ssh-ed25519 …) is wanted here") // Its text must not be shown.
	default:
		err = errors.New("want age1…, ssh-ed25519 … or ssh-rsa …")
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("public key %.100q: %w", text, err)
	}
	return Recipient{Recipient: r, Text: text}, nil
}

// ParseIdentities reads private keys: lines of age-keygen (AGE-SECRET-KEY-…, comments),
// of plugins (AGE-PLUGIN-…, whose public key the comment "# recipient: …" before it says),
// or one SSH private key, which is an age key too where it is of Ed25519. plugins may be nil; lines of plugins are refused then. Errors
// name the line, and never say what is on it.
func ParseIdentities(text []byte, plugins Plugins) ([]Identity, error) {
	if len(text) > MaxIdentities {
		return nil, fmt.Errorf("%d bytes of private keys, at most %d are read", len(text), MaxIdentities)
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN ")) {
		return sshIdentities(text)
	}
	var ids []Identity
	announced := ""
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "#"); ok {
			if r, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(comment)), "recipient:"); ok {
				announced = strings.TrimSpace(r)
			}
			continue
		}
		if line == "" {
			continue
		}
		id, err := parseIdentity(line, announced, plugins)
		if err != nil {
			return nil, fmt.Errorf("line %d of the private keys: %w", i+1, err)
		}
		ids, announced = append(ids, id), ""
	}
	if len(ids) == 0 {
		return nil, errors.New("there is no private key: want lines AGE-SECRET-KEY-… as age-keygen writes them, or an SSH private key")
	}
	return ids, nil
}

func parseIdentity(line, announced string, plugins Plugins) (Identity, error) {
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		id, err := age.ParseHybridIdentity(line)
		if err != nil {
			return Identity{}, errors.New("malformed private key")
		}
		return Identity{id, id.Recipient().String()}, nil
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		id, err := age.ParseX25519Identity(line)
		if err != nil {
			return Identity{}, errors.New("malformed private key")
		}
		return Identity{id, id.Recipient().String()}, nil
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		if plugins == nil {
			return Identity{}, fmt.Errorf("a key of a plugin: %w", ErrUnsupported)
		}
		id, err := plugins.Identity(line)
		if err != nil {
			return Identity{}, fmt.Errorf("a key of a plugin: %w", err)
		}
		return Identity{id, announced}, nil
	}
	return Identity{}, errors.New("no kind of private key that is known here")
}

// sshIdentities are those of an SSH private key: itself, which opens what is encrypted to
// its public line, and the age key that ssh-to-age makes of one of Ed25519, by which
// sops-nix has hosts read.
func sshIdentities(text []byte) ([]Identity, error) {
	id, err := agessh.ParseIdentity(text)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, errors.New("the SSH private key has a passphrase: give an age key, or an SSH key without one")
	}
	if err != nil {
		return nil, errors.New("the SSH private key is malformed, or neither ed25519 nor RSA")
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		return nil, errors.New("the SSH private key is malformed")
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, errors.New("the SSH private key is malformed")
	}
	ids := []Identity{{id, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}}
	if key, ok := key.(*ed25519.PrivateKey); ok {
		converted, err := convert(*key)
		if err != nil {
			return nil, err
		}
		ids = append(ids, converted)
	}
	return ids, nil
}

// convert makes the X25519 key of an Ed25519 key: its scalar (RFC 8032, 5.1.5), which is
// the same on the other form of the curve (RFC 7748, 4.1).
func convert(key ed25519.PrivateKey) (Identity, error) {
	sum := sha512.Sum512(key.Seed())
	defer clear(sum[:])
	text := bech32.Encode("AGE-SECRET-KEY-", sum[:32])
	defer clear(text)
	id, err := age.ParseX25519Identity(string(text))
	if err != nil {
		return Identity{}, errors.New("the SSH private key makes no age key")
	}
	return Identity{id, id.Recipient().String()}, nil
}

// MaxWrapped bounds a wrapped data key; the largest kind, of a post-quantum plugin, has a few KiB.
const MaxWrapped = 32 << 10

// Stanza is a data key wrapped for one recipient.
type Stanza struct {
	// Recipient is the public key's text.
	Recipient string
	// Wrapped is an armored age file.
	Wrapped string
}

// Wrap wraps the data key for one recipient.
func (k *DataKey) Wrap(r Recipient) (Stanza, error) {
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, r.Recipient)
	if err == nil {
		_, err = w.Write(k[:])
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = a.Close()
	}
	if err != nil {
		return Stanza{}, fmt.Errorf("encrypting to %s: %w", r.Text, err)
	}
	return Stanza{r.Text, out.String()}, nil
}

// Unwrap opens the first stanza that one of the identities opens, those that name their
// public keys before the others, so that no plugin asks for a touch in vain.
func Unwrap(stanzas []Stanza, ids []Identity) (*DataKey, error) {
	var plain []age.Identity
	mine := map[string]bool{}
	for _, id := range ids {
		plain = append(plain, id.Identity)
		if id.Recipient != "" {
			mine[Canonical(id.Recipient)] = true
		}
	}
	if len(plain) == 0 {
		return nil, fmt.Errorf("%w: there is no key at hand", ErrNoIdentity)
	}
	var last error
	for _, named := range []bool{true, false} {
		for _, s := range stanzas {
			if mine[Canonical(s.Recipient)] != named {
				continue
			}
			k, err := s.unwrap(plain)
			if err == nil {
				return k, nil
			}
			if noMatch := (*age.NoIdentityMatchError)(nil); !errors.As(err, &noMatch) {
				last = fmt.Errorf("for %.100q: %w", s.Recipient, err)
			}
		}
	}
	if last != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoIdentity, last)
	}
	return nil, ErrNoIdentity
}

func (s Stanza) unwrap(ids []age.Identity) (*DataKey, error) {
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(s.Wrapped)), ids...)
	if err != nil {
		return nil, err //nolint:wrapcheck // The caller says for whom.
	}
	b, err := io.ReadAll(io.LimitReader(r, keySize+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTampered, err)
	}
	if len(b) != keySize {
		return nil, fmt.Errorf("%w: what is wrapped is no data key of %d bytes", ErrFormat, keySize)
	}
	return (*DataKey)(b), nil
}
