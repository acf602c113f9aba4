package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// maxCAs bounds the certificates that a coordinator may have the host trust.
const maxCAs = 8

// use switches to a certificate; s.mu is held, or s not shared yet.
func (s *Store) use(leaf *x509.Certificate, cas []*x509.Certificate) {
	s.leaf, s.cas = leaf, cas
	s.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: s.host, Leaf: leaf}
}

// Enrolled says whether there is a certificate, ended or not.
func (s *Store) Enrolled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaf != nil
}

// Certificate is the host identity for TLS, the newest one.
func (s *Store) Certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert == nil {
		return nil, ErrNotEnrolled
	}
	return s.cert, nil
}

// pins says whether a CA is the pinned one, or the one before it; s.mu is held, or
// s not shared yet.
func (s *Store) pins(ca *x509.Certificate) bool {
	digest := fleet.DigestOf(ca.Raw)
	return digest == s.binding.CA || digest == s.binding.CABefore
}

// CAs that the coordinator's certificate may chain to: those of the trust root.
// Where that lists none, or was lost to damage, the one that is pinned, and the one
// before it: the coordinator's own certificate is of that for a while.
func (s *Store) CAs() []*x509.Certificate {
	if cas := s.trusted(); len(cas) > 0 {
		return cas
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var pinned []*x509.Certificate
	for _, ca := range s.cas {
		if s.pins(ca) {
			pinned = append(pinned, ca)
		}
	}
	return pinned
}

// Validity is from when to when the host identity is good.
func (s *Store) Validity() (from, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaf == nil {
		return time.Time{}, time.Time{}
	}
	return s.leaf.NotBefore, s.leaf.NotAfter
}

// RenewAt is when the identity should be renewed: at half its life, moved by
// up to a tenth of it by jitter in [0,1), so that a fleet doesn't come at once. One
// of a CA that the trust root lists no longer is renewed at once.
func (s *Store) RenewAt(jitter float64) time.Time {
	from, until := s.Validity()
	if s.Abandoned() {
		return from
	}
	life := until.Sub(from)
	return from.Add(life/2 + time.Duration(jitter*float64(life)/10))
}

// Abandoned says whether the certificate is of a CA that the trust root lists no
// longer.
func (s *Store) Abandoned() bool {
	trusted := s.trusted()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaf != nil && len(trusted) > 0 && !slices.ContainsFunc(trusted, func(ca *x509.Certificate) bool { return s.leaf.CheckSignatureFrom(ca) == nil })
}

// CSR asks for a certificate over the host's key.
func (s *Store) CSR() ([]byte, error) { return pki.NewCSR(s.host) }

// Install checks a new certificate and the CAs that came with it, and makes
// them durable before they are used. Where it fails, the old ones stay.
// ErrCertificate says that they are not what this host may use.
func (s *Store) Install(leafDER []byte, caDER [][]byte) error {
	leaf, cas, of, err := s.check(leafDER, caDER)
	if err != nil {
		return fmt.Errorf("installing certificate: %w: %w", ErrCertificate, err)
	}
	encoded, err := encodeCertificates(leafDER, caDER)
	if err != nil {
		return fmt.Errorf("installing certificate: %w", err)
	}
	if err := s.noteCA(of); err != nil {
		return fmt.Errorf("installing certificate: %w", err)
	}
	if err := atomicfile.WriteFile(s.path(certFile), encoded, 0o600); err != nil {
		return fmt.Errorf("installing certificate: %w", err)
	}
	crashpoint.Hit(crashpoint.EnrolCertificateKept)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		if err := s.setBinding(*s.next); err != nil {
			return fmt.Errorf("installing certificate: %w", err)
		}
	}
	crashpoint.Hit(crashpoint.EnrolJoinRemove)
	// The token was used; what is left of the join string is of no use.
	if err := os.Remove(s.path(joinFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("installing certificate: %w", err)
	}
	s.use(leaf, cas)
	return nil
}

// noteCA records which CA the certificate is of that is about to be installed, and
// the one before: until the certificate is there both fit.
func (s *Store) noteCA(of fleet.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.binding
	if s.next != nil {
		b = s.next // Made durable after the certificate.
	}
	if b.CA == of {
		return nil
	}
	changed := *b
	changed.CABefore, changed.CA = b.CA, of
	if s.next != nil {
		s.next = &changed
		return nil
	}
	if err := s.setBinding(changed); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RenewCANoted)
	return nil
}

// check returns the certificate, the CAs beside it, and which of those it is of.
func (s *Store) check(leafDER []byte, caDER [][]byte) (leaf *x509.Certificate, cas []*x509.Certificate, of fleet.Digest, err error) {
	if len(caDER) == 0 || len(caDER) > maxCAs {
		return nil, nil, "", fmt.Errorf("%d CA certificates came with it, want 1 to %d", len(caDER), maxCAs)
	}
	leaf, err = x509.ParseCertificate(leafDER)
	if err != nil {
		return nil, nil, "", fmt.Errorf("reading it: %w", err)
	}
	b, err := s.coming()
	if err != nil {
		return nil, nil, "", err
	}
	id, err := pki.IdentityOf(leaf)
	if err != nil {
		return nil, nil, "", err
	}
	if want := pki.HostIdentity(b.Fleet, b.Machine); id != want {
		return nil, nil, "", fmt.Errorf("it is for %s, want %s", id, want)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(s.host.Public()) {
		return nil, nil, "", errors.New("it is not over this host's key")
	}
	// Others may come along, but this host's identity is of a CA that its trust root
	// lists, else of the one that its join string pinned: or who has the coordinator
	// for a day could take its hosts along, and the fleet's own CA would mean nothing
	// to them.
	trusted := s.trusted()
	counts := func(ca *x509.Certificate) bool {
		if len(trusted) == 0 {
			return fleet.DigestOf(ca.Raw) == b.CA
		}
		return slices.ContainsFunc(trusted, ca.Equal)
	}
	err = errors.New("none of the CAs that count came with it")
	for _, der := range caDER {
		ca, perr := x509.ParseCertificate(der)
		if perr != nil || !genuine(ca) {
			return nil, nil, "", errors.New("one of the CA certificates is none")
		}
		cas = append(cas, ca)
		if of != "" || !counts(ca) {
			continue
		}
		pool := x509.NewCertPool()
		pool.AddCert(ca)
		// Whether it is good now is TLS's to judge: this host's clock may be off.
		if _, verr := leaf.Verify(x509.VerifyOptions{
			Roots: pool, CurrentTime: leaf.NotBefore.Add(time.Second),
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); verr != nil {
			err = fmt.Errorf("checking its chain: %w", verr)
			continue
		}
		of = fleet.DigestOf(der)
	}
	if of == "" {
		return nil, nil, "", err
	}
	return leaf, cas, of, nil
}

func decodeCertificates(b []byte) (*x509.Certificate, []*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("reading certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) < 2 {
		return nil, nil, errors.New("reading certificates: want the host's own and a CA's; restore the file or enrol again")
	}
	return certs[0], certs[1:], nil
}
