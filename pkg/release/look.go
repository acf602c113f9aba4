package release

import (
	"crypto/ed25519"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// SealLook signs an operator's look at the event log with the key of their
// certificate.
func SealLook(l fleet.Look, s Signer) ([]byte, error) {
	l.Type = fleet.TypeLook
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("sealing look: %w", err)
	}
	env, _, err := Seal(fleet.TypeLook, l, s)
	return env, err
}

// OpenLook verifies a look with an operator's key. Whether it is of that
// operator and fleet is the caller's to check.
func OpenLook(envelope []byte, pub ed25519.PublicKey) (*fleet.Look, error) {
	if len(envelope) > fleet.MaxLookBytes {
		return nil, fmt.Errorf("opening look: %w: %d bytes, at most %d", ErrTooLarge, len(envelope), fleet.MaxLookBytes)
	}
	o, err := openEnvelope(envelope, fleet.TypeLook)
	if err != nil {
		return nil, fmt.Errorf("opening look: %w", err)
	}
	if err := o.verify(map[string]publicKey{KeyID(pub): {PublicKey: pub}}, 1); err != nil {
		return nil, fmt.Errorf("opening look: %w", err)
	}
	l, err := decode[fleet.Look](o.payload, fleet.TypeLook)
	if err == nil {
		err = l.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("opening look: %w", err)
	}
	return &l, nil
}
