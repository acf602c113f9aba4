package release

import (
	"crypto/ed25519"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Signed is a document whose signatures were verified.
type Signed[T any] struct {
	Doc      T
	Digest   fleet.Digest
	Envelope []byte
}

// document is what all signed documents but the root have.
type document[T any] interface {
	*T
	Validate() error
}

// open verifies the signatures of role, then decodes and validates.
func open[T any, P document[T]](t *Trust, envelope []byte, docType string, role RoleName, head func(*T) (fleet.FleetID, []string)) (*Signed[T], error) {
	o, err := openEnvelope(envelope, docType)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", docType, err)
	}
	if err := o.verify(t.keys[role], t.root.Roles[role].Threshold); err != nil {
		return nil, fmt.Errorf("opening %s: %w", docType, err)
	}
	doc, err := decode[T](o.payload, docType)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", docType, err)
	}
	id, critical := head(&doc)
	// Before Validate: an unknown rule is the better explanation of what
	// Validate may find strange.
	if err := checkCritical[T](critical); err != nil {
		return nil, fmt.Errorf("opening %s: %w", docType, err)
	}
	if id != t.root.Fleet {
		return nil, fmt.Errorf("opening %s: %w", docType, ErrWrongFleet)
	}
	if err := P(&doc).Validate(); err != nil {
		return nil, fmt.Errorf("opening %s: %w: %w", docType, ErrMalformed, err)
	}
	return &Signed[T]{Doc: doc, Digest: fleet.DigestOf(o.payload), Envelope: envelope}, nil
}

// OpenGeneration verifies signatures, shape, fleet and critical fields. For
// whom and when it is good is Admit's to say.
func (t *Trust) OpenGeneration(envelope []byte) (*Signed[fleet.Generation], error) {
	return open(t, envelope, fleet.TypeGeneration, RoleRelease,
		func(g *fleet.Generation) (fleet.FleetID, []string) { return g.Fleet, g.Critical })
}

// OpenSecrets does the same for a secrets manifest.
func (t *Trust) OpenSecrets(envelope []byte) (*Signed[fleet.SecretsManifest], error) {
	return open(t, envelope, fleet.TypeSecrets, RoleSecrets,
		func(m *fleet.SecretsManifest) (fleet.FleetID, []string) { return m.Fleet, m.Critical })
}

// OpenLoosening does the same for a loosening.
func (t *Trust) OpenLoosening(envelope []byte) (*Signed[fleet.Loosening], error) {
	return open(t, envelope, fleet.TypeLoosening, RoleRelease,
		func(l *fleet.Loosening) (fleet.FleetID, []string) { return l.Fleet, l.Critical })
}

// OpenClosure does the same for a closure manifest, which the builder role
// signs. The envelope is at most fleet.MaxClosureBytes and is named by digest.
func (t *Trust) OpenClosure(envelope []byte) (*Signed[fleet.ClosureManifest], error) {
	return open(t, envelope, fleet.TypeClosure, RoleBuilder,
		func(m *fleet.ClosureManifest) (fleet.FleetID, []string) { return m.Fleet, m.Critical })
}

// SealReport signs a report with the machine's report key.
func SealReport(r fleet.Report, s Signer) ([]byte, error) {
	r.Type = fleet.TypeReport
	env, _, err := Seal(fleet.TypeReport, r, s)
	return env, err
}

// OpenReport verifies a report with the machine's report key. Whether it is
// of the machine that delivered it, is the caller's to check.
func OpenReport(envelope []byte, pub ed25519.PublicKey) (*fleet.Report, error) {
	o, err := openEnvelope(envelope, fleet.TypeReport)
	if err != nil {
		return nil, fmt.Errorf("opening report: %w", err)
	}
	if err := o.verify(map[string]publicKey{KeyID(pub): {PublicKey: pub}}, 1); err != nil {
		return nil, fmt.Errorf("opening report: %w", err)
	}
	r, err := decode[fleet.Report](o.payload, fleet.TypeReport)
	if err != nil {
		return nil, fmt.Errorf("opening report: %w", err)
	}
	if r.Type != fleet.TypeReport || len(r.Profiles) > fleet.MaxProfiles || len(r.Transitions) > fleet.MaxTransitions || len(r.LogHeads) > fleet.MaxKeptHeads {
		return nil, fmt.Errorf("opening report: %w: more profiles, transitions or heads than allowed", ErrMalformed)
	}
	return &r, nil
}
