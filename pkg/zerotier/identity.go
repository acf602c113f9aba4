package zerotier

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const (
	// keyBytes of a public and of a private key: 32 of X25519, 32 of Ed25519
	// (of the private key the seed).
	keyBytes     = 64
	addressBytes = 5

	// PublicBytes is the length of the text of identity.public.
	PublicBytes = 2*addressBytes + len(":0:") + 2*keyBytes
	// SecretBytes is the length of the text of identity.secret.
	SecretBytes = PublicBytes + len(":") + 2*keyBytes

	// SignatureBytes is the length of a signature.
	SignatureBytes = ed25519.SignatureSize + 32
)

// Errors that parsing and checking wrap.
var (
	// ErrSyntax is of text that is not exactly in the form of an identity,
	// address or network id.
	ErrSyntax = errors.New("not in ZeroTier's form")
	// ErrReserved is of addresses that no node may have.
	ErrReserved = errors.New("a reserved address")
	// ErrAddress is of an identity whose address does not follow from its
	// public key.
	ErrAddress = errors.New("the address does not belong to the public key")
	// ErrPrivate is of an identity whose private key is another one's.
	ErrPrivate = errors.New("the private key does not belong to the public key")
	// ErrSignature is of a signature that is not the identity's over the message.
	ErrSignature = errors.New("not signed by this identity")
)

// Public is the public half of an identity: what identity.public holds. One
// that was parsed is valid. They can be compared with ==.
type Public struct {
	address Address
	key     [keyBytes]byte
}

// Address is the identity's.
func (p Public) Address() Address { return p.address }

// String is the text of identity.public: 141 characters and no newline.
func (p Public) String() string {
	return p.address.String() + ":0:" + hex.EncodeToString(p.key[:])
}

// Verify says with nil that a signature of Identity.Sign is over message by this
// identity, and otherwise with ErrSignature.
func (p Public) Verify(message, signature []byte) error {
	sum := sha512.Sum512(message)
	if len(signature) != SignatureBytes {
		return fmt.Errorf("a ZeroTier signature has %d bytes, this one %d: %w", SignatureBytes, len(signature), ErrSignature)
	}
	// ZeroTier appends what was signed, and its verifier wants to find it there.
	if !bytes.Equal(signature[ed25519.SignatureSize:], sum[:32]) ||
		!ed25519.Verify(p.key[32:], sum[:32], signature[:ed25519.SignatureSize]) {
		return fmt.Errorf("checking a signature of %s: %w", p.address, ErrSignature)
	}
	return nil
}

// Identity is an identity with its private half, which no way of printing it
// shows: only Secret does.
type Identity struct {
	public  Public
	private *hidden
}

// hidden is a private key that fmt can't show, not even where an Identity is an
// unexported field, whose Format is not called, and the verb one for text: fmt
// looks through one pointer there, and not through two.
type hidden struct{ key *[keyBytes]byte }

func newHidden() *hidden { return &hidden{new([keyBytes]byte)} }

// Public is the identity's public half.
func (id *Identity) Public() Public { return id.public }

// Address is the identity's.
func (id *Identity) Address() Address { return id.public.address }

// Secret is the text of identity.secret: 270 bytes, no newline. Who asked for
// it clears it after use, and gives a file of it mode 0600.
func (id *Identity) Secret() []byte {
	text := append(make([]byte, 0, SecretBytes), id.public.String()...)
	text = append(text, ':')
	return hex.AppendEncode(text, id.private.key[:])
}

// Clear overwrites the private half; the identity is of no use then.
func (id *Identity) Clear() { clear(id.private.key[:]) }

// Sign signs a message as zerotier-idtool does, to the byte: 96 bytes.
func (id *Identity) Sign(message []byte) []byte {
	sum := sha512.Sum512(message)
	key := ed25519.NewKeyFromSeed(id.private.key[32:])
	defer clear(key)
	return append(ed25519.Sign(key, sum[:32]), sum[:32]...)
}

// Format prints the address alone, whatever the verb.
func (id *Identity) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "ZeroTier identity %s", id.public.address)
}

// LogValue is the address.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.public.address.String()) }

// ParsePublic reads the text of identity.public, exactly, and checks that the
// address follows from the key, which takes some milliseconds and 2 MB.
func ParsePublic(text []byte) (Public, error) {
	p, err := decodePublic(text, PublicBytes)
	if err != nil {
		return Public{}, fmt.Errorf("reading a public ZeroTier identity: %w", err)
	}
	if err := p.check(); err != nil {
		return Public{}, fmt.Errorf("reading a public ZeroTier identity: %w", err)
	}
	return p, nil
}

// ParseIdentity reads the text of identity.secret, exactly: 270 lower-case
// bytes and no white space. zerotier-idtool forgives more, and so takes files
// that were cut or mixed up. Besides the address, as in ParsePublic, it checks
// that the private half belongs to the public one, which no tool of ZeroTier's
// does: a node with such a file comes up with an address and can't talk to anyone.
// Errors do not show the text.
func ParseIdentity(text []byte) (*Identity, error) {
	id, err := decodeIdentity(text)
	if err == nil {
		err = id.check()
	}
	if err != nil {
		return nil, fmt.Errorf("reading a ZeroTier identity: %w", err)
	}
	return id, nil
}

func decodeIdentity(text []byte) (*Identity, error) {
	p, err := decodePublic(text, SecretBytes)
	if err != nil {
		return nil, err
	}
	if text[PublicBytes] != ':' {
		return nil, fmt.Errorf("no colon between the public and the private key: %w", ErrSyntax)
	}
	id := &Identity{public: p, private: newHidden()}
	if err := decodeHex(id.private.key[:], text[PublicBytes+1:]); err != nil {
		id.Clear()
		return nil, fmt.Errorf("the private key is %w", err)
	}
	return id, nil
}

// decodePublic reads the first three fields of a text that has a length of its own.
func decodePublic(text []byte, length int) (Public, error) {
	if len(text) != length {
		return Public{}, fmt.Errorf("%d bytes instead of %d%s: %w", len(text), length, lengthHint(text, length), ErrSyntax)
	}
	const fields = 2 * addressBytes
	if kind := string(text[fields : fields+3]); kind != ":0:" {
		return Public{}, fmt.Errorf("the address is not followed by :0:, the only type of identity there is: %w", ErrSyntax)
	}
	a, err := ParseAddress(string(text[:fields]))
	if err != nil {
		return Public{}, err
	}
	p := Public{address: a}
	if err := decodeHex(p.key[:], text[fields+3:PublicBytes]); err != nil {
		return Public{}, fmt.Errorf("the public key is %w", err)
	}
	return p, nil
}

func lengthHint(text []byte, length int) string {
	switch len(bytes.TrimSpace(text)) {
	case length:
		return ", remove the white space around it"
	case PublicBytes:
		return ", it is the public half: the file identity.secret is wanted"
	case SecretBytes:
		return ", it holds the private key: the file identity.public is wanted"
	default:
		return ""
	}
}

// decodeHex wants lower-case digits, as ZeroTier writes them, and fills to.
func decodeHex(to, digits []byte) error {
	for _, c := range digits {
		if !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return fmt.Errorf("not %d lower-case hexadecimal digits: %w", len(digits), ErrSyntax)
		}
	}
	_, err := hex.Decode(to, digits)
	return err
}

func (p Public) check() error {
	if a, ok := addressOf(new(digester).digest(&p.key)); !ok || a != p.address {
		return fmt.Errorf("%s: %w", p.address, ErrAddress)
	}
	return nil
}

func (id *Identity) check() error {
	exchange, err := exchangeKey(id.private.key)
	if err != nil {
		return err
	}
	signing := ed25519.NewKeyFromSeed(id.private.key[32:])
	defer clear(signing)
	if subtle.ConstantTimeCompare(exchange, id.public.key[:32])&
		subtle.ConstantTimeCompare(signing[32:], id.public.key[32:]) != 1 {
		return fmt.Errorf("%s: %w", id.public.address, ErrPrivate)
	}
	return id.public.check()
}
