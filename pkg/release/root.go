package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// RoleName names a role of keys.
type RoleName string

// The roles of keys.
const (
	RoleRoot     RoleName = "root"
	RoleRelease  RoleName = "release"
	RoleApprover RoleName = "approver"
	RoleSecrets  RoleName = "secrets"
	// RoleBuilder signs closure manifests. A fleet without one has no store
	// paths as sources.
	RoleBuilder RoleName = "builder"
	// RoleFreshness signs freshness statements.
	RoleFreshness RoleName = "freshness"
)

// Roles lists the roles that every root must fill.
func Roles() []RoleName { return []RoleName{RoleRoot, RoleRelease, RoleApprover, RoleSecrets} }

// AllRoles lists every role, those that a root may leave out last.
func AllRoles() []RoleName { return slices.Concat(Roles(), optionalRoles()) }

// optionalRoles lists the roles that a root may leave out; nobody fills them
// then.
func optionalRoles() []RoleName { return []RoleName{RoleBuilder, RoleFreshness} }

// Bounds of a root: its keys, its CAs, and one CA's certificate in bytes.
const (
	maxRootKeys = 64
	maxCAs      = 4
	maxCABytes  = 4 << 10
)

// Root is the payload of a trust root.
type Root struct {
	Type     string                `json:"type"` // fleet.TypeRoot
	Fleet    fleet.FleetID         `json:"fleet"`
	Version  uint64                `json:"version"` // from 1
	Epoch    uint64                `json:"epoch"`   // from 1
	Issued   time.Time             `json:"issued"`
	Expires  time.Time             `json:"expires"`
	Critical []string              `json:"critical,omitempty"`
	Keys     map[string]Key        `json:"keys"` // by key id
	Roles    map[RoleName]RoleKeys `json:"roles"`
	// CAs are the certificates, in DER, of the certificate authorities that hosts
	// may have their identity of, and the coordinator its own; at most maxCAs. Where
	// there are none, hosts go by the CA that their join string pinned. A successor
	// is listed before it is used, so that hosts know it by then.
	CAs [][]byte `json:"cas,omitempty"`
}

// Key is a public key.
type Key struct {
	Scheme string `json:"scheme"` // SchemeEd25519 or SchemeSecurityKey
	Public string `json:"public"` // standard base64 of 32 bytes
	// Application of a security key, "ssh:…".
	Application string `json:"application,omitempty"`
}

// RoleKeys says who fills a role.
type RoleKeys struct {
	Threshold int      `json:"threshold"`
	KeyIDs    []string `json:"keyids"`
}

// NewKey describes a public key for a root.
func NewKey(pub ed25519.PublicKey) (id string, k Key) {
	return KeyID(pub), Key{Scheme: SchemeEd25519, Public: base64.StdEncoding.EncodeToString(pub)}
}

// Trust is a verified trust root. It is immutable.
type Trust struct {
	root     Root
	digest   fleet.Digest
	envelope []byte
	keys     map[RoleName]map[string]publicKey
	cas      []*x509.Certificate
}

// OpenRoot opens the first root that is trusted, because its digest is the
// pinned one, and checks that its own threshold signed it.
func OpenRoot(envelope []byte, pin fleet.Digest) (*Trust, error) {
	o, err := openEnvelope(envelope, fleet.TypeRoot)
	if err != nil {
		return nil, fmt.Errorf("opening trust root: %w", err)
	}
	if got := fleet.DigestOf(o.payload); got != pin {
		return nil, fmt.Errorf("opening trust root: %w: got %s, want %s", ErrRootPin, got.Short(), pin.Short())
	}
	t, err := newTrust(o, envelope)
	if err != nil {
		return nil, fmt.Errorf("opening trust root: %w", err)
	}
	return t, nil
}

// newTrust decodes a root and checks it against itself.
func newTrust(o *opened, envelope []byte) (*Trust, error) {
	root, err := decode[Root](o.payload, fleet.TypeRoot)
	if err != nil {
		return nil, err
	}
	keys, err := root.check()
	if err != nil {
		return nil, err
	}
	cas, err := root.authorities()
	if err != nil {
		return nil, err
	}
	if err := o.verify(keys[RoleRoot], root.Roles[RoleRoot].Threshold); err != nil {
		return nil, err
	}
	return &Trust{root: root, digest: fleet.DigestOf(o.payload), envelope: envelope, keys: keys, cas: cas}, nil
}

// authorities parses the CAs.
func (r *Root) authorities() ([]*x509.Certificate, error) {
	if len(r.CAs) > maxCAs {
		return nil, fmt.Errorf("%w: %d CAs, at most %d", ErrTooLarge, len(r.CAs), maxCAs)
	}
	var out []*x509.Certificate
	for i, der := range r.CAs {
		if len(der) > maxCABytes {
			return nil, fmt.Errorf("%w: CA %d has %d bytes, at most %d", ErrTooLarge, i+1, len(der), maxCABytes)
		}
		ca, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: CA %d: %w", ErrMalformed, i+1, err)
		case !ca.IsCA || !bytes.Equal(ca.RawIssuer, ca.RawSubject) || ca.CheckSignatureFrom(ca) != nil:
			return nil, fmt.Errorf("%w: CA %d is not the certificate of a CA by itself", ErrMalformed, i+1)
		case slices.ContainsFunc(out, ca.Equal):
			return nil, fmt.Errorf("%w: CA %d is there twice", ErrMalformed, i+1)
		}
		out = append(out, ca)
	}
	return out, nil
}

func (r *Root) check() (map[RoleName]map[string]publicKey, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	if err := checkCritical[Root](r.Critical); err != nil {
		return nil, err
	}
	if r.Type != fleet.TypeRoot || r.Version == 0 || r.Epoch == 0 || !r.Issued.Before(r.Expires) {
		return nil, bad("it needs type, version, epoch and an expiry after its issue")
	}
	if _, err := fleet.ParseFleetID(string(r.Fleet)); err != nil {
		return nil, bad("%v", err)
	}
	if len(r.Keys) > maxRootKeys {
		return nil, fmt.Errorf("%w: %d keys, at most %d", ErrTooLarge, len(r.Keys), maxRootKeys)
	}
	all := map[string]publicKey{}
	for id, k := range r.Keys {
		pub, err := k.parse(id)
		if err != nil {
			return nil, err
		}
		// One key under a second id could otherwise sign for two.
		if KeyID(pub.PublicKey) != id {
			return nil, fmt.Errorf("%w: the key under id %.16s has another id", ErrDuplicateKey, id)
		}
		all[id] = pub
	}
	keys := map[RoleName]map[string]publicKey{}
	for _, name := range AllRoles() {
		role, ok := r.Roles[name]
		if !ok && slices.Contains(optionalRoles(), name) {
			continue
		}
		if !ok {
			return nil, bad("role %s is not filled", name)
		}
		keys[name] = map[string]publicKey{}
		for _, id := range role.KeyIDs {
			if _, twice := keys[name][id]; twice {
				return nil, fmt.Errorf("%w: role %s lists key %.16s twice", ErrDuplicateKey, name, id)
			}
			key, ok := all[id]
			if !ok {
				return nil, bad("role %s lists key %.16s, which is not there", name, id)
			}
			keys[name][id] = key
		}
		if role.Threshold < 1 || role.Threshold > len(role.KeyIDs) {
			return nil, bad("role %s has threshold %d of %d keys", name, role.Threshold, len(role.KeyIDs))
		}
	}
	return keys, nil
}

// Next opens the root that follows: version N+1 of the same fleet, signed by
// the thresholds of N and of N+1. Expiry of N does not matter, so that a host
// that slept through versions can walk to the newest.
func (t *Trust) Next(envelope []byte) (*Trust, error) {
	o, err := openEnvelope(envelope, fleet.TypeRoot)
	if err != nil {
		return nil, fmt.Errorf("opening next trust root: %w", err)
	}
	if err := o.verify(t.keys[RoleRoot], t.root.Roles[RoleRoot].Threshold); err != nil {
		return nil, fmt.Errorf("opening next trust root: %w", err)
	}
	n, err := newTrust(o, envelope)
	if err != nil {
		return nil, fmt.Errorf("opening next trust root: %w", err)
	}
	if err := t.follows(&n.root); err != nil {
		return nil, fmt.Errorf("opening next trust root: %w", err)
	}
	return n, nil
}

// follows says whether next may come after t.
func (t *Trust) follows(next *Root) error {
	switch {
	case next.Fleet != t.root.Fleet:
		return ErrWrongFleet
	case next.Version != t.root.Version+1:
		return fmt.Errorf("%w: got %d after %d", ErrRootVersion, next.Version, t.root.Version)
	case next.Epoch < t.root.Epoch:
		return ErrWrongEpoch
	}
	return nil
}

// OpenChain opens a pinned root and walks to the last one, oldest first.
func OpenChain(envelopes [][]byte, pin fleet.Digest) (*Trust, error) {
	if len(envelopes) == 0 {
		return nil, fmt.Errorf("opening trust root: %w: there is none", ErrRootVersion)
	}
	t, err := OpenRoot(envelopes[0], pin)
	for _, e := range envelopes[1:] {
		if err != nil {
			break
		}
		t, err = t.Next(e)
	}
	return t, err
}

// Root returns the document. Callers must not change its maps.
func (t *Trust) Root() *Root { r := t.root; return &r }

// CAs are the certificates of the CAs that the root lists; none where a join
// string's pin is what counts. Callers must not change them.
func (t *Trust) CAs() []*x509.Certificate { return t.cas }

// ListsCA says whether a CA is among them.
func (t *Trust) ListsCA(ca *x509.Certificate) bool { return slices.ContainsFunc(t.cas, ca.Equal) }

// Digest is the digest of the document.
func (t *Trust) Digest() fleet.Digest { return t.digest }

// Envelope is the document as it was signed.
func (t *Trust) Envelope() []byte { return t.envelope }

// CheckFresh returns ErrExpired when the root has expired at now.
func (t *Trust) CheckFresh(now time.Time) error {
	if now.After(t.root.Expires) {
		return fmt.Errorf("trust root %d: %w on %s", t.root.Version, ErrExpired, t.root.Expires.Format(time.DateOnly))
	}
	return nil
}
