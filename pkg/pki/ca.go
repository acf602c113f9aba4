package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Lifetimes.
const (
	// HostTTL is how long a host identity lives; it is renewed at half-life.
	HostTTL = hostTTL
	// RenewGrace is how long after its expiry a host identity may still be
	// renewed: laptops sleep for weeks.
	RenewGrace = 90 * 24 * time.Hour
	// OperatorTTL is how long an operator identity lives.
	OperatorTTL = 2 * 365 * 24 * time.Hour
	// CATTL is how long a certificate authority lives.
	CATTL = 20 * 365 * 24 * time.Hour
	// backdate makes a fresh certificate good on hosts whose clock is slow.
	backdate = time.Hour
)

// CA is a fleet's certificate authority.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// NewCA makes a certificate authority for a fleet.
func NewCA(f fleet.FleetID, now time.Time) (*CA, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "fleet " + string(f) + " CA"},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: string(f)}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CATTL),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making CA: %w", err)
	}
	return &CA{Cert: cert, Key: key}, nil
}

// MarshalKey is the private key in PKCS #8 DER.
func (ca *CA) MarshalKey() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.Key)
	if err != nil {
		return nil, fmt.Errorf("encoding CA key: %w", err)
	}
	return der, nil
}

// ParseCA reads a certificate in DER and its private key in PKCS #8 DER.
func ParseCA(certDER, pkcs8 []byte) (*CA, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("reading CA certificate: %w", err)
	}
	key, err := ParseKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("reading CA key: %w", err)
	}
	pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !cert.IsCA || !ok || !pub.Equal(key.Public()) {
		return nil, errors.New("reading CA: certificate and key do not belong together")
	}
	return &CA{Cert: cert, Key: key}, nil
}

// ParseKey reads a private key in PKCS #8 DER.
func ParseKey(pkcs8 []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("reading key: it can't sign")
	}
	return key, nil
}

// Issue makes a certificate in DER for id over pub, from an hour before now
// until ttl after it, but never beyond the CA's end.
func (ca *CA) Issue(id Identity, pub crypto.PublicKey, now time.Time, ttl time.Duration) ([]byte, error) {
	if _, err := parseIdentity(id.String()); err != nil {
		return nil, fmt.Errorf("issuing certificate: %w", err)
	}
	end := now.Add(ttl)
	if end.After(ca.Cert.NotAfter) {
		end = ca.Cert.NotAfter
	}
	if !now.Before(end) {
		return nil, fmt.Errorf("issuing certificate for %s: the CA ends on %s; make its successor", id, ca.Cert.NotAfter.Format(time.DateOnly))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	start := now.Add(-backdate)
	if start.Before(ca.Cert.NotBefore) {
		start = ca.Cert.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id.Path()},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: string(id.Fleet), Path: "/" + id.Path()}},
		NotBefore:             start,
		NotAfter:              end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca.Cert, pub, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("issuing certificate for %s: %w", id, err)
	}
	return der, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
