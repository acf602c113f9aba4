// Package ca issues the coordinator's certificates: those of hosts and
// operators, and its own, which it renews by itself.
package ca

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// serverTTL is how long a certificate lives that the coordinator gives itself.
const serverTTL = 30 * 24 * time.Hour

// Authority issues certificates of one fleet.
type Authority struct {
	ca       *pki.CA
	identity pki.Identity
	key      crypto.Signer
	now      func() time.Time
	cas      []*x509.Certificate

	mu  sync.Mutex // guards own
	own *tls.Certificate
}

// Options make an authority.
type Options struct {
	// CA issues what is issued from now on.
	CA *pki.CA
	// Others are CAs whose certificates are accepted, too.
	Others []*x509.Certificate
	// Identity is the coordinator's; Cert is its certificate in DER, of one of the
	// CAs, over Key.
	Identity pki.Identity
	Cert     []byte
	Key      crypto.Signer
	Now      func() time.Time
}

// New makes an authority.
func New(o Options) (*Authority, error) {
	leaf, err := x509.ParseCertificate(o.Cert)
	if err != nil {
		return nil, fmt.Errorf("reading the coordinator's certificate: %w", err)
	}
	got, err := pki.IdentityOf(leaf)
	if err != nil {
		return nil, fmt.Errorf("reading the coordinator's certificate: %w", err)
	}
	if got != o.Identity {
		return nil, fmt.Errorf("reading the coordinator's certificate: it is of %s, want %s: make the kit anew", got, o.Identity)
	}
	pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(o.Key.Public()) {
		return nil, fmt.Errorf("reading the coordinator's certificate: it is not over the key beside it: make the kit anew")
	}
	a := &Authority{ca: o.CA, identity: o.Identity, key: o.Key, now: o.Now, cas: append([]*x509.Certificate{o.CA.Cert}, o.Others...)}
	for _, ca := range a.cas {
		if leaf.CheckSignatureFrom(ca) == nil {
			a.own = a.chain(leaf, ca)
			return a, nil
		}
	}
	return nil, errors.New("reading the coordinator's certificate: it is of none of the kit's CAs: make the kit anew")
}

// chain adds the CA, which enrolling hosts look for to compare it with their pin.
func (a *Authority) chain(leaf, ca *x509.Certificate) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Raw}, PrivateKey: a.key, Leaf: leaf}
}

// CAs returns the certificates that client certificates may chain to.
func (a *Authority) CAs() []*x509.Certificate { return a.cas }

// DER returns the certificates of CAs in DER.
func (a *Authority) DER() [][]byte {
	out := make([][]byte, len(a.cas))
	for i, c := range a.cas {
		out[i] = c.Raw
	}
	return out
}

// Issues says whether a certificate is of the CA that issues now.
func (a *Authority) Issues(leaf *x509.Certificate) bool {
	return leaf.CheckSignatureFrom(a.ca.Cert) == nil
}

// Host issues a host identity over pub. The certificate never outlives the CA.
func (a *Authority) Host(m fleet.MachineName, pub crypto.PublicKey) (*x509.Certificate, error) {
	return a.issue(pki.HostIdentity(a.identity.Fleet, m), pub, pki.HostTTL)
}

// Operator issues an operator's certificate over pub.
func (a *Authority) Operator(o fleet.OperatorName, pub crypto.PublicKey) (*x509.Certificate, error) {
	return a.issue(pki.OperatorIdentity(a.identity.Fleet, o), pub, pki.OperatorTTL)
}

func (a *Authority) issue(id pki.Identity, pub crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	der, err := a.ca.Issue(id, pub, a.now(), ttl)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issuing certificate for %s: %w", id, err)
	}
	crashpoint.Hit(crashpoint.CertificateIssued)
	return leaf, nil
}

// Server returns the coordinator's own certificate. When a third or less of
// its life is left, a new one is issued over the same key, so that a
// coordinator that nobody touches for years goes on.
func (a *Authority) Server() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, leaf := a.now(), a.own.Leaf
	life := min(leaf.NotAfter.Sub(leaf.NotBefore), serverTTL)
	if leaf.NotAfter.Sub(now) > life/3 && !now.Before(leaf.NotBefore) {
		return a.own, nil
	}
	next, err := a.issue(a.identity, a.key.Public(), serverTTL)
	if err != nil {
		if now.After(leaf.NotAfter) {
			return nil, fmt.Errorf("renewing the coordinator's certificate: %w", err)
		}
		return a.own, nil
	}
	a.own = a.chain(next, a.ca.Cert)
	return a.own, nil
}
