package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// encodeCertificates is the form on disk.
func encodeCertificates(leaf []byte, cas [][]byte) ([]byte, error) {
	var buf bytes.Buffer
	for _, der := range slices.Concat([][]byte{leaf}, cas) {
		if err := pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return nil, fmt.Errorf("encoding certificate: %w", err)
		}
	}
	return buf.Bytes(), nil
}

// genuine says whether a CA certificate is one and is what was signed, as far as
// it can say that itself.
func genuine(ca *x509.Certificate) bool {
	return ca.IsCA && (!bytes.Equal(ca.RawIssuer, ca.RawSubject) || ca.CheckSignatureFrom(ca) == nil)
}

// whole says whether the stored certificates, read from the file b, are what was
// written: every byte of them, the host's own over this host's key and of one of
// the CAs beside it.
func (s *Store) whole(b []byte, leaf *x509.Certificate, cas []*x509.Certificate) error {
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(s.host.Public()) {
		return fmt.Errorf("it is not over the key in %s: one of the two is not what it was", s.path(hostKeyFile))
	}
	ders := make([][]byte, 0, len(cas))
	for _, ca := range cas {
		if !genuine(ca) {
			return errors.New("one of the CAs in it is not what was signed")
		}
		ders = append(ders, ca.Raw)
	}
	if !slices.ContainsFunc(cas, func(ca *x509.Certificate) bool { return leaf.CheckSignatureFrom(ca) == nil }) {
		return errors.New("it is of none of the CAs beside it")
	}
	want, err := encodeCertificates(leaf.Raw, ders)
	if err == nil && !bytes.Equal(want, b) {
		err = errors.New("a certificate in it can't be read") // decoding passes over what is no PEM block.
	}
	return err
}

// fits says whether the binding is that of the certificate. The CA is compared
// only while no join string waits: enrolling again keeps the certificate first
// and the binding after it.
func (s *Store) fits(leaf *x509.Certificate, cas []*x509.Certificate) error {
	id, err := pki.IdentityOf(leaf)
	if err != nil {
		return fmt.Errorf("reading the certificate beside it: %w", err)
	}
	if want := pki.HostIdentity(s.binding.Fleet, s.binding.Machine); id != want {
		return fmt.Errorf("it is of %s, the certificate in %s of %s", want, s.path(certFile), id)
	}
	if len(s.binding.Addresses) == 0 {
		return errors.New("it names no coordinator")
	}
	if _, err := fleet.ParseDigest(string(s.binding.Root)); err != nil {
		return fmt.Errorf("its trust root: %w", err)
	}
	switch _, err := os.Stat(s.path(joinFile)); {
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("looking for a join string: %w", err)
	}
	if !slices.ContainsFunc(cas, func(ca *x509.Certificate) bool {
		return s.pins(ca) && leaf.CheckSignatureFrom(ca) == nil
	}) {
		return fmt.Errorf("its CA did not sign the certificate in %s", s.path(certFile))
	}
	return nil
}
