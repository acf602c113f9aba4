package release

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Schemes of keys: how a key signs.
const (
	// SchemeEd25519 signs the message itself (RFC 8032).
	SchemeEd25519 = "ed25519"
	// SchemeSecurityKey is a FIDO security key as OpenSSH keeps it: it signs a
	// hash of the message together with what the key vouches for, see
	// OpenSSH's PROTOCOL.u2f.
	SchemeSecurityKey = "sk-ssh-ed25519@openssh.com"
)

const (
	// skSignatureSize is an ed25519 signature, the flags and the counter.
	skSignatureSize = ed25519.SignatureSize + 1 + 4
	// maxApplication bounds the application of a security key, in bytes.
	maxApplication = 128
)

// Flags of a security key's signature (WebAuthn section 6.1).
const (
	skUserPresent  = 1 << 0
	skAttested     = 1 << 6
	skExtensions   = 1 << 7
	skNotSupported = skAttested | skExtensions
)

// ErrApplication is a security key that was made for something else than SSH.
var ErrApplication = errors.New("the security key's application is not one of ssh")

// publicKey verifies by the scheme of a key.
type publicKey struct {
	ed25519.PublicKey
	// application is the SHA-256 of a security key's application; nil for
	// keys that are none.
	application []byte
}

// NewSecurityKey describes the public part of a security key for a root. Its
// id is that of the ed25519 key in it, so that it does not count again under
// another application or as a plain key.
func NewSecurityKey(pub ed25519.PublicKey, application string) (id string, k Key, err error) {
	if !goodApplication(application) {
		return "", Key{}, fmt.Errorf("%w: %.40q", ErrApplication, application)
	}
	id, k = NewKey(pub)
	k.Scheme, k.Application = SchemeSecurityKey, application
	return id, k, nil
}

// goodApplication says whether an application is one of OpenSSH's: a site that
// a browser asks signatures for can't have such a name.
func goodApplication(s string) bool {
	return strings.HasPrefix(s, "ssh:") && len(s) <= maxApplication &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// parse reads the key; id is for errors.
func (k Key) parse(id string) (publicKey, error) {
	pub, err := base64.StdEncoding.Strict().DecodeString(k.Public)
	switch {
	case k.Scheme != SchemeEd25519 && k.Scheme != SchemeSecurityKey:
		return publicKey{}, fmt.Errorf("%w: key %.16s has the scheme %.40q", ErrCritical, id, k.Scheme)
	case err != nil || len(pub) != ed25519.PublicKeySize:
		return publicKey{}, fmt.Errorf("%w: key %.16s is no ed25519 key", ErrMalformed, id)
	case k.Scheme == SchemeEd25519 && k.Application == "":
		return publicKey{PublicKey: pub}, nil
	case k.Scheme == SchemeSecurityKey && goodApplication(k.Application):
		sum := sha256.Sum256([]byte(k.Application))
		return publicKey{PublicKey: pub, application: sum[:]}, nil
	}
	return publicKey{}, fmt.Errorf("%w: key %.16s: the application does not fit its scheme", ErrMalformed, id)
}

// verify says whether sig is the key's signature of msg.
func (p publicKey) verify(msg, sig []byte) bool {
	if p.application == nil {
		return len(sig) == ed25519.SignatureSize && ed25519.Verify(p.PublicKey, msg, sig)
	}
	if len(sig) != skSignatureSize {
		return false
	}
	flags := sig[ed25519.SignatureSize]
	// Without a touch malware could sign alone. Extensions and attested data
	// would be signed too, and no assertion of OpenSSH's has them.
	if flags&skUserPresent == 0 || flags&skNotSupported != 0 {
		return false
	}
	return ed25519.Verify(p.PublicKey, skMessage(p.application, sig[ed25519.SignatureSize:], msg), sig[:ed25519.SignatureSize])
}

// skMessage is what a security key signs: the hash of its application, flags,
// counter, the hash of the message.
func skMessage(application, flagsAndCounter, msg []byte) []byte {
	sum := sha256.Sum256(msg)
	out := make([]byte, 0, 2*sha256.Size+5)
	out = append(out, application...)
	out = append(out, flagsAndCounter...)
	return append(out, sum[:]...)
}

// SecurityKeySignature encodes what a security key returned as one signature:
// the ed25519 signature, the flags, the counter in four bytes, big-endian.
func SecurityKeySignature(sig []byte, flags byte, counter uint32) []byte {
	out := append(append(make([]byte, 0, skSignatureSize), sig...), flags)
	return binary.BigEndian.AppendUint32(out, counter)
}
