package release

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// maxSignatures bounds the signatures of one envelope.
const maxSignatures = 32

// envelopeOverhead bounds what is in an envelope besides the payload.
const envelopeOverhead = maxSignatures*512 + 1024

// maxPayload bounds the payload of a type of documents. Only a closure manifest
// is larger than what a stream carries: it travels as a blob.
func maxPayload(docType string) int {
	if docType == fleet.TypeClosure {
		return (fleet.MaxClosureBytes - envelopeOverhead) / 4 * 3
	}
	return fleet.MaxDocumentBytes
}

// maxEnvelope is a payload at its limit in base64, and its signatures.
func maxEnvelope(docType string) int {
	return maxPayload(docType)*4/3 + envelopeOverhead
}

// Signer signs with one key, wherever that is kept.
type Signer interface {
	// KeyID is the id of the public key, as KeyID returns it.
	KeyID() string
	// Sign returns the signature of msg in the key's scheme: that of ed25519, or
	// what SecurityKeySignature makes.
	Sign(msg []byte) ([]byte, error)
}

type keySigner struct {
	id  string
	key ed25519.PrivateKey
}

// NewSigner signs with a key in memory.
func NewSigner(key ed25519.PrivateKey) Signer {
	pub, _ := key.Public().(ed25519.PublicKey)
	return keySigner{id: KeyID(pub), key: key}
}

func (s keySigner) KeyID() string                   { return s.id }
func (s keySigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

// KeyID is the lower-case hex SHA-256 of the 32-byte public key.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:])
}

func payloadType(docType string) string {
	return "application/vnd.fleet." + docType + ".v1+json"
}

// Seal encodes doc, signs it and returns the envelope and the document's
// digest. The caller has validated doc.
func Seal(docType string, doc any, signers ...Signer) ([]byte, fleet.Digest, error) {
	payload, err := json.Marshal(doc)
	if err != nil {
		return nil, "", fmt.Errorf("sealing %s: %w", docType, err)
	}
	if len(payload) > maxPayload(docType) {
		return nil, "", fmt.Errorf("sealing %s of %d bytes: %w", docType, len(payload), ErrTooLarge)
	}
	env := dsse.Envelope{
		PayloadType: payloadType(docType),
		Payload:     base64.StdEncoding.EncodeToString(payload),
	}
	if err := sign(&env, payload, signers); err != nil {
		return nil, "", fmt.Errorf("sealing %s: %w", docType, err)
	}
	out, err := json.Marshal(env)
	if err != nil {
		return nil, "", fmt.Errorf("sealing %s: %w", docType, err)
	}
	return out, fleet.DigestOf(payload), nil
}

func sign(env *dsse.Envelope, payload []byte, signers []Signer) error {
	msg := dsse.PAE(env.PayloadType, payload)
	for _, s := range signers {
		sig, err := s.Sign(msg)
		if err != nil {
			return fmt.Errorf("signing with key %s: %w", s.KeyID(), err)
		}
		env.Signatures = append(env.Signatures, dsse.Signature{
			KeyID: s.KeyID(), Sig: base64.StdEncoding.EncodeToString(sig),
		})
	}
	return nil
}

// opened is an envelope whose shape is good and whose signatures are not
// checked yet.
type opened struct {
	payload []byte
	msg     []byte
	sigs    []dsse.Signature
}

func openEnvelope(envelope []byte, docType string) (*opened, error) {
	var env dsse.Envelope
	if err := unmarshal(envelope, maxEnvelope(docType), &env); err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	if want := payloadType(docType); env.PayloadType != want {
		return nil, fmt.Errorf("%w: it is no %s document", ErrMalformed, docType)
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(env.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: payload is no base64", ErrMalformed)
	}
	if len(env.Signatures) > maxSignatures {
		return nil, fmt.Errorf("%w: %d signatures, at most %d", ErrTooLarge, len(env.Signatures), maxSignatures)
	}
	return &opened{payload: payload, msg: dsse.PAE(env.PayloadType, payload), sigs: env.Signatures}, nil
}

// verify counts the keys among allowed that signed, and wants threshold.
func (o *opened) verify(allowed map[string]publicKey, threshold int) error {
	seen := map[string]bool{}
	valid, known := 0, 0
	for _, s := range o.sigs {
		if seen[s.KeyID] {
			return fmt.Errorf("%w: two signatures under key id %.16s", ErrDuplicateKey, s.KeyID)
		}
		seen[s.KeyID] = true
		pub, ok := allowed[s.KeyID]
		if !ok {
			continue
		}
		known++
		sig, err := base64.StdEncoding.Strict().DecodeString(s.Sig)
		if err == nil && pub.verify(o.msg, sig) {
			valid++
		}
	}
	switch {
	case threshold > 0 && valid >= threshold:
		return nil
	case known == 0:
		return ErrUnknownKey
	case valid < known:
		return ErrSignature
	}
	return fmt.Errorf("%w: %d of %d", ErrThreshold, valid, threshold)
}

// unmarshal maps strictjson's errors to the package's refusals.
func unmarshal(data []byte, most int, v any) error {
	err := strictjson.Unmarshal(data, most, v)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, strictjson.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// decode reads a payload whose signatures were verified.
func decode[T any](payload []byte, docType string) (T, error) {
	var doc T
	if err := unmarshal(payload, maxPayload(docType), &doc); err != nil {
		return doc, err
	}
	return doc, nil
}
