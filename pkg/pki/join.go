package pki

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// TokenTTL is how long a join string works.
const TokenTTL = 10 * time.Minute

const (
	joinPrefix   = "fleet-join1:"
	maxJoinBytes = 4 << 10
	secretBytes  = 32
)

// ErrJoin is wrapped by errors about join strings.
var ErrJoin = errors.New("not a join string")

// Join is what a machine needs to enrol: where to, what to trust, and a secret
// from which both the one-use token and the key are derived that authenticates
// the host's own keys to the fleet's repository. The coordinator sees the
// token only, so it can't pass keys of its own off as the host's.
type Join struct {
	Fleet   fleet.FleetID     `json:"fleet"`
	Machine fleet.MachineName `json:"machine"`
	// Addresses of the coordinator, host:port, tried in order.
	Addresses []string `json:"addresses"`
	// CA is the digest of the CA certificate in DER.
	CA fleet.Digest `json:"ca"`
	// Root is the digest of the trust root to start from.
	Root fleet.Digest `json:"root"`
	// Issued bounds the host's clock from below.
	Issued time.Time `json:"issued"`
	Secret []byte    `json:"secret"`
}

// NewJoin fills in a fresh secret.
func NewJoin(j Join) (Join, error) {
	j.Secret = make([]byte, secretBytes)
	if _, err := rand.Read(j.Secret); err != nil {
		return Join{}, fmt.Errorf("making join string: %w", err)
	}
	return j, j.check()
}

func (j Join) check() error {
	if _, err := fleet.ParseFleetID(string(j.Fleet)); err != nil {
		return fmt.Errorf("%w: %w", ErrJoin, err)
	}
	if _, err := fleet.ParseMachineName(string(j.Machine)); err != nil {
		return fmt.Errorf("%w: %w", ErrJoin, err)
	}
	for _, d := range []fleet.Digest{j.CA, j.Root} {
		if _, err := fleet.ParseDigest(string(d)); err != nil {
			return fmt.Errorf("%w: %w", ErrJoin, err)
		}
	}
	if len(j.Addresses) == 0 || len(j.Addresses) > 16 {
		return fmt.Errorf("%w: want 1 to 16 addresses", ErrJoin)
	}
	for _, a := range j.Addresses {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			return fmt.Errorf("%w: address %.80q: want host:port", ErrJoin, a)
		}
	}
	if len(j.Secret) != secretBytes {
		return fmt.Errorf("%w: its secret is cut", ErrJoin)
	}
	return nil
}

// String is the join string. It is a secret until it was used.
func (j Join) String() string {
	b, err := json.Marshal(j) //nolint:gosec // Its secret is what a join string is for.
	if err != nil {
		return "" // Join has no field that can fail.
	}
	return joinPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseJoin reads a join string, white space around it ignored.
func ParseJoin(s string) (Join, error) {
	s = strings.TrimSpace(s)
	text, ok := strings.CutPrefix(s, joinPrefix)
	if !ok || len(s) > maxJoinBytes {
		return Join{}, fmt.Errorf("%w: want %s… as fleetctl token prints it", ErrJoin, joinPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return Join{}, fmt.Errorf("%w: it is cut or altered: copy it whole", ErrJoin)
	}
	var j Join
	if err := strictjson.Unmarshal(b, maxJoinBytes, &j); err != nil {
		return Join{}, fmt.Errorf("%w: %w", ErrJoin, err)
	}
	return j, j.check()
}

func (j Join) derive(what string) []byte {
	k, err := hkdf.Key(sha256.New, j.Secret, nil, "fleet join "+what, sha256.Size)
	if err != nil {
		return nil // Only for lengths that SHA-256 can't give.
	}
	return k
}

// Token is what the coordinator is shown, once.
func (j Join) Token() []byte { return j.derive("token") }

// TokenHash is what the coordinator knows beforehand.
func (j Join) TokenHash() []byte { sum := sha256.Sum256(j.Token()); return sum[:] }

// MAC authenticates the host's own keys to whoever made the join string.
func (j Join) MAC(hostKeys []byte) []byte {
	m := hmac.New(sha256.New, j.derive("host keys"))
	_, _ = m.Write(hostKeys)
	return m.Sum(nil)
}

// CheckMAC compares in constant time.
func (j Join) CheckMAC(hostKeys, mac []byte) bool { return hmac.Equal(j.MAC(hostKeys), mac) }
