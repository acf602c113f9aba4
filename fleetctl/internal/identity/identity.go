// Package identity keeps an operator's identity: the certificate and, age
// encrypted, its key, in the user's configuration directory, apart from the
// fleet's repository.
package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrNone is wrapped when there is no operator identity for the fleet.
var ErrNone = errors.New("no operator identity for this fleet")

// ErrExpired is wrapped when the identity has ended.
var ErrExpired = errors.New("the operator identity has expired")

const (
	certFile = "operator.crt"
	keyFile  = "operator.key.age"
	// maxFile bounds what is read, in bytes.
	maxFile = 1 << 20
)

// Dir is where the identity for a fleet is kept.
func Dir(configDir string, f fleet.FleetID) string {
	return filepath.Join(configDir, "fleet", string(f))
}

// SealKey encrypts a private key, as PEM, for keeping it at rest.
func SealKey(key ed25519.PrivateKey, recipients ...age.Recipient) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	return pki.SealKey(pki.EncodeKey(der), recipients...)
}

// Whose says whose the identity in dir is, by its certificate.
func Whose(dir string) (pki.Identity, error) {
	leaf, err := readCert(dir)
	if err != nil {
		return pki.Identity{}, err
	}
	return pki.IdentityOf(leaf)
}

// readCert reads the certificate in dir.
func readCert(dir string) (*x509.Certificate, error) {
	path := filepath.Join(dir, certFile)
	// Files of the user's own configuration directory are small.
	text, err := atomicfile.ReadAtMost(path, maxFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM certificate", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

// Load reads the identity in dir and says whose it is.
func Load(dir string, f fleet.FleetID, keys *keyring.Keyring, now time.Time) (tls.Certificate, pki.Identity, error) {
	none := func(err error) (tls.Certificate, pki.Identity, error) {
		return tls.Certificate{}, pki.Identity{}, fmt.Errorf("reading the operator identity: %w", err)
	}
	leaf, err := readCert(dir)
	if errors.Is(err, os.ErrNotExist) {
		return none(ui.WithHint(fmt.Errorf("%w: %w", ErrNone, err), "make a request (fleetctl operator request) and have an admin add you, or copy "+dir+" from where fleetctl init was run"))
	}
	if err != nil {
		return none(err)
	}
	id, err := pki.IdentityOf(leaf)
	if err != nil {
		return none(err)
	}
	if id.Fleet != f || id.Kind != pki.KindOperator {
		return none(fmt.Errorf("%w: the certificate in %s is of %s", ErrNone, dir, id))
	}
	if now.After(leaf.NotAfter) {
		return none(ui.WithHint(fmt.Errorf("%w on %s", ErrExpired, leaf.NotAfter.Format(time.DateOnly)), `an admin renews it: "fleetctl operator request", then "fleetctl operator add"; or you, with the CA's key: "fleetctl kit --renew-operator NAME"`))
	}
	key, err := openKey(dir, keys)
	if err != nil {
		return tls.Certificate{}, pki.Identity{}, ui.WithHint(fmt.Errorf("reading the operator identity: %w", err), ui.HintOf(err))
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, id, nil
}
