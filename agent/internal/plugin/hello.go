package plugin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/plugin/handshake"
)

// maxHelloBytes bounds the line that a plugin begins with: a certificate in
// base64 and little else.
const maxHelloBytes = 16 << 10

var (
	errHello   = errors.New("did not begin with the handshake of a plugin")
	errVersion = errors.New("speaks another version")
)

// hello is what a plugin says of itself when it starts.
type hello struct {
	socket string
	cert   *x509.Certificate
}

// parseHello reads "CORE|VERSION|unix|SOCKET|grpc|CERTIFICATE" and ignores
// what newer libraries append. The socket must be directly in dir: a plugin
// does not choose whom the agent talks to.
func parseHello(line, dir string) (hello, error) {
	var h hello
	parts := strings.Split(strings.TrimSpace(line), "|")
	if len(parts) < 6 {
		return h, fmt.Errorf("%w: it printed %q", errHello, printable(line))
	}
	for i, want := range []int{handshake.CoreVersion, handshake.Version} {
		got, err := strconv.Atoi(parts[i])
		switch {
		case err != nil:
			return h, fmt.Errorf("%w: it printed %q", errHello, printable(line))
		case got != want && i == 0:
			return h, fmt.Errorf("%w of go-plugin's protocol, %d; this agent speaks %d", errVersion, got, want)
		case got != want:
			return h, fmt.Errorf("%w of the contract, %d; this agent speaks %d", errVersion, got, want)
		}
	}
	if parts[2] != "unix" || filepath.Dir(parts[3]) != dir || filepath.Clean(parts[3]) != parts[3] {
		return h, fmt.Errorf("%w: it listens on %s %q, not in the directory it was given", errHello, printable(parts[2]), printable(parts[3]))
	}
	if parts[4] != "grpc" {
		return h, fmt.Errorf("%w: its protocol is %q, not grpc", errHello, printable(parts[4]))
	}
	der, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err == nil {
		h.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return h, fmt.Errorf("%w: it gave no certificate: %w", errHello, err)
	}
	h.socket = parts[3]
	return h, nil
}

// credentials are this side's certificate for one process.
type credentials struct {
	cert tls.Certificate
	pem  string
}

// newCredentials makes a key that lives as long as one process of a plugin.
func newCredentials(now time.Time) (credentials, error) {
	var c credentials
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, fmt.Errorf("making key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return c, fmt.Errorf("making serial number: %w", err)
	}
	// The plugin looks at its own clock: leave room for a clock that steps.
	const room = 10 * 365 * 24 * time.Hour
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: now.Add(-room), NotAfter: now.Add(room),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return c, fmt.Errorf("making certificate: %w", err)
	}
	c.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	c.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return c, nil
}

// tls accepts the one certificate that the plugin announced, and no other. It
// lives as long as the process: what a clock says of it does not matter.
func (c credentials) tls(peer *x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(peer)
	return &tls.Config{
		Certificates: []tls.Certificate{c.cert}, RootCAs: pool, ServerName: "localhost",
		MinVersion: tls.VersionTLS13, Time: func() time.Time { return peer.NotBefore.Add(time.Second) },
		VerifyConnection: func(s tls.ConnectionState) error {
			if !s.PeerCertificates[0].Equal(peer) {
				return errors.New("the plugin shows another certificate than it announced")
			}
			return nil
		},
	}
}
