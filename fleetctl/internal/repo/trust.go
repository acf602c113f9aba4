package repo

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrNoKey is wrapped when a role's threshold can't be reached with the keys
// that are here.
var ErrNoKey = errors.New("not enough keys to sign")

// Opener decrypts what is encrypted at rest.
type Opener interface {
	Open(data []byte) ([]byte, error)
}

// maxRootFile bounds one trust root's file, in bytes.
const maxRootFile = 1 << 20

// WriteRoot records a trust root.
func (r *Repository) WriteRoot(version uint64, envelope []byte) error {
	return r.Write(envelope, "trust", "root", strconv.FormatUint(version, 10)+".json")
}

// Roots reads all trust roots, oldest first.
func (r *Repository) Roots() ([][]byte, error) {
	var out [][]byte
	for v := uint64(1); ; v++ {
		data, err := r.Read(maxRootFile, "trust", "root", strconv.FormatUint(v, 10)+".json")
		switch {
		case errors.Is(err, os.ErrNotExist) && v > 1:
			return out, nil
		case err != nil:
			return nil, ui.WithHint(fmt.Errorf("reading trust root: %w", err), "restore trust/root from version control")
		}
		out = append(out, data)
	}
}

// Trust opens the repository's trust root: the repository is where trust
// starts, so its first root is pinned by being there. pin is that root's
// digest, which join strings and kits carry.
func (r *Repository) Trust() (t *release.Trust, pin fleet.Digest, err error) {
	roots, err := r.Roots()
	if err != nil {
		return nil, "", err
	}
	pin, err = PayloadDigest(roots[0])
	if err == nil {
		t, err = release.OpenChain(roots, pin)
	}
	if err != nil {
		return nil, "", ui.WithHint(fmt.Errorf("reading %s: %w", r.Path("trust", "root"), err), "restore trust/root from version control")
	}
	return t, pin, nil
}

// PayloadDigest is the digest of the document in an envelope. Nothing is
// verified.
func PayloadDigest(envelope []byte) (fleet.Digest, error) {
	payload, err := Payload(envelope)
	if err != nil {
		return "", err
	}
	return fleet.DigestOf(payload), nil
}

// Payload is the document in an envelope. Nothing is verified.
func Payload(envelope []byte) ([]byte, error) {
	var e struct {
		Payload string `json:"payload"`
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, fmt.Errorf("%w: %w", release.ErrMalformed, err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", release.ErrMalformed, err)
	}
	return payload, nil
}

// Decode reads the document of an envelope whose signatures were checked, or which this
// repository made. An error wraps release.ErrMalformed.
func Decode[T any](envelope []byte) (doc T, err error) {
	payload, err := Payload(envelope)
	if err != nil {
		return doc, err
	}
	if err := json.Unmarshal(payload, &doc); err != nil {
		return doc, fmt.Errorf("%w: %w", release.ErrMalformed, err)
	}
	return doc, nil
}

// openPEM decrypts a file with a private key and returns its PKCS #8 DER.
func (r *Repository) openPEM(o Opener, elem ...string) ([]byte, error) {
	data, err := r.Read(1<<20, elem...)
	if err != nil {
		return nil, err
	}
	return OpenPEM(o, data, r.Path(elem...))
}

// OpenPEM decrypts a private key and returns its PKCS #8 DER; name is for
// errors.
func OpenPEM(o Opener, sealed []byte, name string) ([]byte, error) {
	text, err := o.Open(sealed)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("opening %s: %w", name, err), ui.HintOf(err))
	}
	der, err := pki.DecodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w: %w", name, ErrCorrupt, err)
	}
	return der, nil
}

// EncodeCert is a certificate as PEM.
func EncodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
