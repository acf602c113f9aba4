package pki

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrIdentity is wrapped by errors about certificates that name no identity
// of this fleet.
var ErrIdentity = errors.New("no identity of this fleet")

// Kind is what an identity is of.
type Kind string

// The kinds of identities.
const (
	KindHost        Kind = "host"
	KindOperator    Kind = "operator"
	KindCoordinator Kind = "coordinator"
)

// Identity is who a certificate is for.
type Identity struct {
	Fleet fleet.FleetID
	Kind  Kind
	Name  string
}

// HostIdentity is the identity of a machine.
func HostIdentity(f fleet.FleetID, m fleet.MachineName) Identity {
	return Identity{Fleet: f, Kind: KindHost, Name: string(m)}
}

// OperatorIdentity is the identity of an operator.
func OperatorIdentity(f fleet.FleetID, o fleet.OperatorName) Identity {
	return Identity{Fleet: f, Kind: KindOperator, Name: string(o)}
}

// CoordinatorIdentity is the identity of a coordinator.
func CoordinatorIdentity(f fleet.FleetID, m fleet.MachineName) Identity {
	return Identity{Fleet: f, Kind: KindCoordinator, Name: string(m)}
}

// String is the SPIFFE id.
func (i Identity) String() string { return "spiffe://" + string(i.Fleet) + "/" + i.Path() }

// Path is "host/NAME", "operator/NAME" or "coordinator/NAME": the actor in the
// event log.
func (i Identity) Path() string { return string(i.Kind) + "/" + i.Name }

// parseIdentity reads a SPIFFE id.
func parseIdentity(s string) (Identity, error) {
	id, err := spiffeid.FromString(s)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	kind, name, _ := strings.Cut(strings.TrimPrefix(id.Path(), "/"), "/")
	i := Identity{Fleet: fleet.FleetID(id.TrustDomain().Name()), Kind: Kind(kind), Name: name}
	if _, err := fleet.ParseFleetID(string(i.Fleet)); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	switch i.Kind {
	case KindHost, KindCoordinator:
		_, err = fleet.ParseMachineName(name)
	case KindOperator:
		_, err = fleet.ParseOperatorName(name)
	default:
		err = fmt.Errorf("unknown kind %.40q", kind)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return i, nil
}

// IdentityOf reads the one SPIFFE id of a certificate. Whether the certificate
// is any good, is not looked at.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	// X509-SVID section 2: exactly one URI SAN.
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("%w: the certificate has %d URIs, want one", ErrIdentity, len(cert.URIs))
	}
	return parseIdentity(cert.URIs[0].String())
}

// NewKey makes an ed25519 key.
func NewKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	return key, nil
}

// KeyFingerprint is the lower-case hex SHA-256 of the key's
// SubjectPublicKeyInfo.
func KeyFingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("fingerprinting key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// maxCSRBytes bounds certificate requests.
const maxCSRBytes = 8 << 10

// NewCSR makes a PKCS #10 request in DER that proves possession of key. It
// names nothing: the issuer decides what the certificate says.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making certificate request: %w", err)
	}
	return der, nil
}

// ParseCSR checks a request and returns its key, which must be ed25519.
func ParseCSR(der []byte) (ed25519.PublicKey, error) {
	if len(der) > maxCSRBytes {
		return nil, fmt.Errorf("reading certificate request: %d bytes, at most %d", len(der), maxCSRBytes)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading certificate request: %w", err)
	}
	pub, ok := csr.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("reading certificate request: want an ed25519 key")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("reading certificate request: %w", err)
	}
	return pub, nil
}
