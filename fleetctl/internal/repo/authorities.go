package repo

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// The certificate authorities of a fleet, by the begin of their files' names in
// trust/: the one that issues, and while it is replaced its successor or, once that
// issues, its predecessor.
const (
	caNow    = "ca"
	caNext   = "ca-next"
	caBefore = "ca-before"
)

// Authorities are the certificates of a fleet's CAs.
type Authorities struct {
	// Now issues certificates.
	Now *x509.Certificate
	// Next is to come; nil for none.
	Next *x509.Certificate
	// Before issued until lately: what it issued counts, and the coordinator goes by
	// a certificate of it as long as its key is here. nil for none.
	Before *x509.Certificate
	// BeforeServes says that the key of Before is here.
	BeforeServes bool
}

// All are the certificates that there are, the issuing one first.
func (a Authorities) All() (all []*x509.Certificate) {
	for _, ca := range []*x509.Certificate{a.Now, a.Next, a.Before} {
		if ca != nil {
			all = append(all, ca)
		}
	}
	return all
}

// Serving is the CA of the coordinator's own certificate, which join strings pin.
func (a Authorities) Serving() *x509.Certificate {
	if a.Before != nil && a.BeforeServes {
		return a.Before
	}
	return a.Now
}

// Authorities reads the CAs' certificates.
func (r *Repository) Authorities() (a Authorities, err error) {
	if a.Now, err = r.caCert(caNow); err != nil {
		return a, err
	}
	for name, to := range map[string]**x509.Certificate{caNext: &a.Next, caBefore: &a.Before} {
		if *to, err = r.caCert(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return a, err
		}
	}
	// A crash in the middle of UseNextCA leaves the one that issues under both names.
	if a.Next != nil && a.Next.Equal(a.Now) {
		a.Next = nil
	}
	if a.Before != nil && a.Before.Equal(a.Now) {
		a.Before = nil
	}
	switch _, err := os.Stat(r.Path("trust", caBefore+".key.age")); {
	case err == nil:
		a.BeforeServes = true
	case !errors.Is(err, os.ErrNotExist):
		return a, fmt.Errorf("reading the fleet's CAs: %w", err)
	}
	return a, nil
}

// CA reads the certificate of the CA that issues.
func (r *Repository) CA() (*x509.Certificate, error) { return r.caCert(caNow) }

func (r *Repository) caCert(name string) (*x509.Certificate, error) {
	data, err := r.Read(1<<20, "trust", name+".crt")
	if err != nil {
		return nil, fmt.Errorf("reading the fleet's CA: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("reading %s: %w: it is no PEM certificate", r.Path("trust", name+".crt"), ErrCorrupt)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w: %w", r.Path("trust", name+".crt"), ErrCorrupt, err)
	}
	return cert, nil
}

// FullCA reads the CA that issues with its key, which o must be able to open.
func (r *Repository) FullCA(o Opener) (*pki.CA, error) { return r.fullCA(o, caNow) }

// ServingCA reads the CA of the coordinator's own certificate with its key.
func (r *Repository) ServingCA(o Opener) (*pki.CA, error) {
	a, err := r.Authorities()
	switch {
	case err != nil:
		return nil, err
	case a.Serving() == a.Before:
		return r.fullCA(o, caBefore)
	}
	return r.fullCA(o, caNow)
}

func (r *Repository) fullCA(o Opener, name string) (*pki.CA, error) {
	cert, err := r.caCert(name)
	if err != nil {
		return nil, err
	}
	key, err := r.openPEM(o, "trust", name+".key.age")
	if err != nil {
		return nil, err
	}
	return pki.ParseCA(cert.Raw, key)
}

// WriteNextCA records the CA that is to come, with its sealed key.
func (r *Repository) WriteNextCA(cert *x509.Certificate, sealed []byte) error {
	// The key first: a certificate without it could never be used.
	if err := r.Write(sealed, "trust", caNext+".key.age"); err != nil {
		return err
	}
	return r.Write(EncodeCert(cert.Raw), "trust", caNext+".crt")
}

// UseNextCA puts the CA that is to come in the place of the one that issues, which
// stays as the one before. After a crash in the middle it is called again.
func (r *Repository) UseNextCA() error {
	for _, ext := range []string{".key.age", ".crt"} {
		now, err := r.Read(1<<20, "trust", caNow+ext)
		if err != nil {
			return fmt.Errorf("reading the fleet's CA: %w", err)
		}
		next, err := r.Read(1<<20, "trust", caNext+ext)
		if err != nil {
			return fmt.Errorf("reading the CA to come: %w", err)
		}
		if string(now) == string(next) {
			continue // A crash came after this one.
		}
		if err := r.Write(now, "trust", caBefore+ext); err != nil {
			return err
		}
		if err := r.Write(next, "trust", caNow+ext); err != nil {
			return err
		}
		crashpoint.Hit(crashpoint.CAMoved)
	}
	return r.removeAll(caNext+".crt", caNext+".key.age")
}

// DropOtherCAs removes the key of the CA before, so that from now on the
// coordinator's own certificate is of the one that issues, and the CA to come.
func (r *Repository) DropOtherCAs() error {
	return r.removeAll(caBefore+".key.age", caNext+".crt", caNext+".key.age")
}

// ForgetCABefore removes the CA before: what it issued counts no more.
func (r *Repository) ForgetCABefore() error {
	return r.removeAll(caBefore+".key.age", caBefore+".crt")
}

func (r *Repository) removeAll(names ...string) error {
	for _, name := range names {
		if err := os.Remove(r.Path("trust", name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return ui.WithHint(fmt.Errorf("removing trust/%s: %w", name, err), "run it again once that is possible")
		}
	}
	return nil
}
