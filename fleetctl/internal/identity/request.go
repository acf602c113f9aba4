package identity

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// requestFile is the certificate request over the key, PEM: it is public,
	// and says which key is this operator's.
	requestFile = "operator.csr"
	// agentFile names a key of the ssh-agent that takes the place of keyFile.
	agentFile = "operator.ssh-agent"

	requestBlock = "CERTIFICATE REQUEST"
)

// ErrRequest is what is no certificate request.
var ErrRequest = errors.New("it is no operator's request")

// Made is a new identity that is not kept anywhere yet.
type Made struct {
	Key  ed25519.PrivateKey
	Leaf []byte
}

// New makes a key and has the CA issue its certificate.
func New(ca *pki.CA, id pki.Identity, now time.Time) (*Made, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Issue(id, key.Public(), now, pki.OperatorTTL)
	if err != nil {
		return nil, err
	}
	return &Made{Key: key, Leaf: leaf}, nil
}

// Save keeps the identity in dir, replacing what is there.
func (m *Made) Save(dir string, recipients ...age.Recipient) error {
	sealed, err := SealKey(m.Key, recipients...)
	if err != nil {
		return err
	}
	if err := saveKey(dir, keyFile, sealed, m.Key); err != nil {
		return err
	}
	return SaveCert(dir, m.Leaf)
}

// SaveCert keeps a certificate over the key that is in dir.
func SaveCert(dir string, der []byte) error {
	return atomicfile.WriteFile(filepath.Join(dir, certFile), repo.EncodeCert(der), 0o600)
}

// saveKey keeps how to use a key, then the request over it, which makes it the
// operator's.
func saveKey(dir, file string, content []byte, key crypto.Signer) error {
	csr, err := pki.NewCSR(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping the operator identity: %w", err)
	}
	if err := atomicfile.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
		return err
	}
	other := map[string]string{keyFile: agentFile, agentFile: keyFile}[file]
	if err := os.Remove(filepath.Join(dir, other)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keeping the operator identity: %w", err)
	}
	return atomicfile.WriteFile(filepath.Join(dir, requestFile), EncodeRequest(csr), 0o600)
}

// Request makes a key in dir, unless one is there, and returns the request over
// it, PEM. agentKey names a key of the ssh-agent to be used instead; empty for
// none.
func Request(dir string, keys *keyring.Keyring, agentKey string, recipients ...age.Recipient) ([]byte, error) {
	text, err := readFile(dir, requestFile)
	if err == nil && agentKey == "" {
		return text, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// A certificate over another key would no longer fit.
	if _, err := readCert(dir); err == nil {
		return nil, ui.WithHint(fmt.Errorf("an operator identity is in %s already", dir), "it renews itself; move that directory away to begin anew")
	}
	if agentKey != "" {
		signer, err := keys.AgentTLS(agentKey)
		if err != nil {
			return nil, err
		}
		err = saveKey(dir, agentFile, []byte(agentKey+"\n"), signer)
		if err != nil {
			return nil, err
		}
		return readFile(dir, requestFile)
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	sealed, err := SealKey(key, recipients...)
	if err != nil {
		return nil, err
	}
	if err := saveKey(dir, keyFile, sealed, key); err != nil {
		return nil, err
	}
	return readFile(dir, requestFile)
}

// ParseRequest reads a request and returns it in DER with its key.
func ParseRequest(text []byte) ([]byte, ed25519.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != requestBlock {
		return nil, nil, ui.WithHint(ErrRequest, `it has a block that begins with "-----BEGIN CERTIFICATE REQUEST-----", as "fleetctl operator request" prints it`)
	}
	pub, err := pki.ParseCSR(block.Bytes)
	if err != nil {
		return nil, nil, ui.WithHint(fmt.Errorf("%w: %w", ErrRequest, err), "have them run fleetctl operator request again")
	}
	return block.Bytes, pub, nil
}

// Adopt takes the certificate that an admin had issued over the key in dir, out
// of the fleet's repository, where it is newer than the one that is there.
func Adopt(dir string, records []repo.OperatorRecord) error {
	text, err := readFile(dir, requestFile)
	if err != nil {
		return nil //nolint:nilerr // No key that was requested for: nothing to adopt.
	}
	_, pub, err := ParseRequest(text)
	if err != nil {
		return err
	}
	mine, err := pki.KeyFingerprint(pub)
	if err != nil {
		return err
	}
	have, _ := readCert(dir) // None, or a damaged one: any is better.
	for i := range records {
		leaf := records[i].Leaf()
		if records[i].Key != mine || records[i].Removed || leaf == nil {
			continue
		}
		if k, err := pki.KeyFingerprint(leaf.PublicKey); err != nil || k != mine {
			continue
		}
		if have == nil || leaf.NotAfter.After(have.NotAfter) || !bytes.Equal(have.RawSubjectPublicKeyInfo, leaf.RawSubjectPublicKeyInfo) {
			return SaveCert(dir, leaf.Raw)
		}
	}
	return nil
}

// openKey opens the key in dir, or finds it in the ssh-agent.
func openKey(dir string, keys *keyring.Keyring) (crypto.Signer, error) {
	name, err := readFile(dir, agentFile)
	if err == nil {
		return keys.AgentTLS(strings.TrimSpace(string(name)))
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	sealed, err := readFile(dir, keyFile)
	if err != nil {
		return nil, err
	}
	der, err := repo.OpenPEM(keys, sealed, filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	return pki.ParseKey(der)
}

// readFile reads one of the files in dir, which are small.
func readFile(dir, name string) ([]byte, error) {
	return atomicfile.ReadAtMost(filepath.Join(dir, name), maxFile)
}

// Renewed keeps the key in dir and has the CA issue a new certificate over it; a
// key that is not there, or does not open, is made anew. It says which key it
// is.
func Renewed(dir string, ca *pki.CA, id pki.Identity, keys *keyring.Keyring, now time.Time, recipients ...age.Recipient) (*x509.Certificate, error) {
	key, err := openKey(dir, keys)
	if err != nil {
		made, err := New(ca, id, now)
		if err != nil {
			return nil, err
		}
		if err := made.Save(dir, recipients...); err != nil {
			return nil, err
		}
		return x509.ParseCertificate(made.Leaf)
	}
	der, err := ca.Issue(id, key.Public(), now, pki.OperatorTTL)
	if err != nil {
		return nil, err
	}
	if err := SaveCert(dir, der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// EncodeRequest is a request as PEM.
func EncodeRequest(csr []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: csr})
}
