package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Errors of the TLS checks.
var (
	// ErrExpiredIdentity says that a certificate has ended, beyond any grace.
	ErrExpiredIdentity = errors.New("identity expired")
	// ErrNotYetValid says that a certificate starts later: a clock is wrong.
	ErrNotYetValid = errors.New("identity not valid yet: check the clocks of both sides")
	// ErrUnknownCA says that a certificate is not of the expected CA.
	ErrUnknownCA = errors.New("certificate is not of this fleet's CA")
)

// Peer is an authenticated other side.
type Peer struct {
	Identity
	// Expired says that the certificate has ended, within the grace.
	Expired bool
	Leaf    *x509.Certificate
}

// ServerConfig configures the coordinator's side.
type ServerConfig struct {
	// Certificate returns the server's certificate, asked at each handshake.
	Certificate func() (*tls.Certificate, error)
	// CAs that client certificates may chain to.
	CAs   func() []*x509.Certificate
	Fleet fleet.FleetID
	Now   func() time.Time
	// Grace in which an ended client certificate is let through, marked
	// Expired by PeerOf; only renewal may be allowed to it.
	Grace time.Duration
}

// ServerTLS asks for a client certificate but does not insist, so that
// enrolment works; one that is presented must be of the fleet.
func ServerTLS(c ServerConfig) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequestClientCert,
		Time:       c.Now,
		NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.Certificate()
		},
		// Each connection proves itself: a resumed one would not be checked
		// against today's bans and CAs.
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return verify(cs.PeerCertificates, c.CAs(), c.Fleet, c.Now(), c.Grace, "")
		},
	}
}

// PeerOf says who is on the other side of a connection that ServerTLS or
// ClientTLS let through; ok is false for a client without a certificate. It is
// cheap: the chain was verified in the handshake, only time goes on.
func PeerOf(cs tls.ConnectionState, now time.Time) (p Peer, ok bool, err error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, false, nil
	}
	leaf := cs.PeerCertificates[0]
	id, err := IdentityOf(leaf)
	if err != nil {
		return Peer{}, false, err
	}
	return Peer{Identity: id, Expired: now.After(leaf.NotAfter), Leaf: leaf}, true, nil
}

// ClientConfig configures an agent's or operator's side.
type ClientConfig struct {
	// Certificate returns the client's certificate, asked at each handshake.
	Certificate func() (*tls.Certificate, error)
	// CAs that the server's certificate may chain to.
	CAs   func() []*x509.Certificate
	Fleet fleet.FleetID
	Now   func() time.Time
}

// ClientTLS checks that the server is a coordinator of the fleet, by its
// SPIFFE id; host names play no part.
func ClientTLS(c ClientConfig) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       c.Now,
		NextProtos: []string{"h2"},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.Certificate()
		},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks chain, time and SPIFFE id.
		VerifyConnection: func(cs tls.ConnectionState) error {
			return verify(cs.PeerCertificates, c.CAs(), c.Fleet, c.Now(), 0, KindCoordinator)
		},
	}
}

// EnrolTLS connects without a certificate to a coordinator whose CA is pinned
// by the digest of its certificate. The server must send that CA in its chain.
func EnrolTLS(f fleet.FleetID, caPin fleet.Digest, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Time:               now,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection checks the pin.
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, c := range cs.PeerCertificates {
				if c.IsCA && fleet.DigestOf(c.Raw) == caPin {
					return verify(cs.PeerCertificates, []*x509.Certificate{c}, f, now(), 0, KindCoordinator)
				}
			}
			return fmt.Errorf("%w: it does not have the pinned digest %s: wrong address, or a join string of another fleet", ErrUnknownCA, caPin.Short())
		},
	}
}

// verify checks chain, time, fleet and kind ("" for any) of a certificate.
func verify(chain, cas []*x509.Certificate, f fleet.FleetID, now time.Time, grace time.Duration, want Kind) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: the other side sent none", ErrUnknownCA)
	}
	leaf := chain[0]
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("%w: starts %s, now %s", ErrNotYetValid, leaf.NotBefore.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	at := now
	if now.After(leaf.NotAfter) {
		if now.After(leaf.NotAfter.Add(grace)) {
			return fmt.Errorf("%w on %s, now %s: enrol again, or check the clocks", ErrExpiredIdentity, leaf.NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
		}
		// Judge the chain as it was at the end.
		at = leaf.NotAfter
	}
	roots := x509.NewCertPool()
	for _, c := range cas {
		roots.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: at,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknownCA, err)
	}
	id, err := IdentityOf(leaf)
	if err != nil {
		return err
	}
	if id.Fleet != f {
		return fmt.Errorf("%w: it is of fleet %s, this is %s", ErrIdentity, id.Fleet, f)
	}
	if want != "" && id.Kind != want {
		return fmt.Errorf("%w: %s is no %s", ErrIdentity, id, want)
	}
	return nil
}

// witnessProtocol is what a witness and who asks it agree on, so that neither passes for
// the other side of another protocol.
const witnessProtocol = "fleet-witness/1"

// WitnessServerTLS lets hosts of the fleet in, and nobody else.
func WitnessServerTLS(c ServerConfig) *tls.Config {
	config := ServerTLS(c)
	config.ClientAuth = tls.RequireAnyClientCert
	config.NextProtos = []string{witnessProtocol}
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		return verifyWitness(cs, c.CAs(), c.Fleet, c.Now())
	}
	return config
}

// WitnessClientTLS checks that the server is the host of that machine.
func WitnessClientTLS(c ClientConfig, m fleet.MachineName) *tls.Config {
	config := ClientTLS(c)
	config.NextProtos = []string{witnessProtocol}
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verifyWitness(cs, c.CAs(), c.Fleet, c.Now()); err != nil {
			return err
		}
		id, err := IdentityOf(cs.PeerCertificates[0])
		if err == nil && id != HostIdentity(c.Fleet, m) {
			err = fmt.Errorf("%w: %s is not machine %s", ErrIdentity, id, m)
		}
		return err
	}
	return config
}

func verifyWitness(cs tls.ConnectionState, cas []*x509.Certificate, f fleet.FleetID, now time.Time) error {
	if cs.NegotiatedProtocol != witnessProtocol {
		return fmt.Errorf("%w: the other side does not speak %s", ErrIdentity, witnessProtocol)
	}
	return verify(cs.PeerCertificates, cas, f, now, 0, KindHost)
}
