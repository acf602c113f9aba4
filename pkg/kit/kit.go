// Package kit is the start-up kit of a coordinator: everything that it needs
// before its store holds anything, so that a coordinator that lost its store
// comes back. fleetctl makes it, the fleet's repository keeps it, encrypted.
package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Limits on a kit.
const (
	MaxBytes     = 16 << 20
	MaxMachines  = 100_000
	MaxOperators = 10_000
	MaxRoots     = 1024
	MaxOtherCAs  = 3
)

// Format is the version of the kit's format that this package writes.
const Format = 3

// Sentinels that errors of this package wrap.
var (
	// ErrMalformed is a kit with a missing or impossible part.
	ErrMalformed = errors.New("malformed coordinator kit")
	// ErrNewer is a kit written by a newer program.
	ErrNewer = errors.New("coordinator kit from a newer version of the program")
	// ErrKey is a kit that the given identities do not open.
	ErrKey = errors.New("the key does not open the coordinator kit")
)

// Kit is a coordinator's start-up kit. It holds private keys: never log it.
type Kit struct {
	// Format of the kit; Seal sets it.
	Format int           `json:"format"`
	Fleet  fleet.FleetID `json:"fleet"`
	// Name of the coordinator, by the rule for machines; part of its SPIFFE id.
	Name string `json:"name"`
	// CACert is the host CA's certificate in DER, CAKey its key in PKCS #8 DER.
	CACert []byte `json:"ca_cert"`
	CAKey  []byte `json:"ca_key"`
	// OtherCAs are the certificates in DER of CAs whose certificates are accepted,
	// too: while the CA is replaced, the one before and the one to come.
	OtherCAs [][]byte `json:"other_cas,omitempty"`
	// Cert is the coordinator's own leaf in DER, Key its key in PKCS #8 DER.
	Cert []byte `json:"cert"`
	Key  []byte `json:"key"`
	// RootPin is the digest of the payload of the first of Roots.
	RootPin fleet.Digest `json:"root_pin"`
	// Roots are the DSSE envelopes of all trust roots, oldest first.
	Roots     [][]byte   `json:"roots"`
	Machines  []Machine  `json:"machines,omitempty"`
	Operators []Operator `json:"operators,omitempty"`
	Bans      []Ban      `json:"bans,omitempty"`
}

// Machine is one of the inventory.
type Machine struct {
	Name     fleet.MachineName `json:"name"`
	Class    fleet.Class       `json:"class"`
	Tags     []string          `json:"tags,omitempty"`
	Disabled bool              `json:"disabled,omitempty"`
}

// Operator is a person or program that may call the coordinator.
type Operator struct {
	Name fleet.OperatorName `json:"name"`
	Role fleet.Role         `json:"role"`
	// Key is the fingerprint of the only key whose certificates count, as
	// pki.KeyFingerprint makes it; empty where the repository names none.
	Key string `json:"key,omitempty"`
	// Changed is when the repository's record was made; zero where there is none.
	// A coordinator that has a younger one keeps it.
	Changed time.Time `json:"changed,omitzero"`
	Removed bool      `json:"removed,omitempty"`
	// Reason of the removal.
	Reason string `json:"reason,omitempty"`
}

// checkKey says whether a fingerprint is one, or empty.
func (o Operator) checkKey() error {
	if o.Key == "" {
		return nil
	}
	if _, err := fleet.ParseDigest("sha256:" + o.Key); err != nil {
		return fmt.Errorf("operator %s: its key is no fingerprint", o.Name)
	}
	return nil
}

// Ban keeps a machine's identity out. A ban that an operator lifted at the
// coordinator stays lifted until its store is lost, or the kit has a later one.
type Ban struct {
	Machine fleet.MachineName `json:"machine"`
	Reason  string            `json:"reason"`
	// Time at which it was made; zero is before all others.
	Time time.Time `json:"time,omitzero"`
}

// Check says what is wrong with the kit's shape, wrapping ErrMalformed. It
// does not judge keys, certificates or signatures.
func (k *Kit) Check() error {
	if k.Format > Format {
		return fmt.Errorf("%w: format %d, this program reads up to %d: update it", ErrNewer, k.Format, Format)
	}
	if _, err := fleet.ParseFleetID(string(k.Fleet)); err != nil {
		return malformed(err)
	}
	if _, err := fleet.ParseMachineName(k.Name); err != nil {
		return malformed(err)
	}
	for _, part := range []struct {
		name  string
		bytes []byte
	}{{"ca_cert", k.CACert}, {"ca_key", k.CAKey}, {"cert", k.Cert}, {"key", k.Key}} {
		if len(part.bytes) == 0 {
			return malformed(fmt.Errorf("%s is missing", part.name))
		}
	}
	if _, err := fleet.ParseDigest(string(k.RootPin)); err != nil {
		return malformed(err)
	}
	switch {
	case len(k.Roots) == 0:
		return malformed(errors.New("no trust root"))
	case len(k.Roots) > MaxRoots:
		return malformed(fmt.Errorf("%d trust roots, at most %d", len(k.Roots), MaxRoots))
	case len(k.OtherCAs) > MaxOtherCAs:
		return malformed(fmt.Errorf("%d other CAs, at most %d", len(k.OtherCAs), MaxOtherCAs))
	case len(k.Machines) > MaxMachines:
		return malformed(fmt.Errorf("%d machines, at most %d", len(k.Machines), MaxMachines))
	case len(k.Operators) > MaxOperators:
		return malformed(fmt.Errorf("%d operators, at most %d", len(k.Operators), MaxOperators))
	case len(k.Bans) > MaxMachines:
		return malformed(fmt.Errorf("%d bans, at most %d", len(k.Bans), MaxMachines))
	}
	return k.checkLists()
}

func (k *Kit) checkLists() error {
	machines := make(map[fleet.MachineName]bool, len(k.Machines))
	for _, m := range k.Machines {
		if _, err := fleet.ParseMachineName(string(m.Name)); err != nil {
			return malformed(err)
		}
		if _, err := fleet.ParseClass(string(m.Class)); err != nil {
			return malformed(fmt.Errorf("machine %s: %w", m.Name, err))
		}
		if machines[m.Name] {
			return malformed(fmt.Errorf("machine %s is listed twice", m.Name))
		}
		machines[m.Name] = true
	}
	operators := make(map[fleet.OperatorName]bool, len(k.Operators))
	for _, o := range k.Operators {
		if _, err := fleet.ParseOperatorName(string(o.Name)); err != nil {
			return malformed(err)
		}
		if _, err := fleet.ParseRole(string(o.Role)); err != nil {
			return malformed(fmt.Errorf("operator %s: %w", o.Name, err))
		}
		if err := o.checkKey(); err != nil {
			return malformed(err)
		}
		if operators[o.Name] {
			return malformed(fmt.Errorf("operator %s is listed twice", o.Name))
		}
		operators[o.Name] = true
	}
	for _, b := range k.Bans {
		if _, err := fleet.ParseMachineName(string(b.Machine)); err != nil {
			return malformed(err)
		}
	}
	return nil
}

// Seal checks the kit and encrypts it, armored, to the recipients.
func (k *Kit) Seal(recipients ...age.Recipient) ([]byte, error) {
	sealed := *k
	sealed.Format = Format
	if err := sealed.Check(); err != nil {
		return nil, fmt.Errorf("sealing the coordinator kit: %w", err)
	}
	plain, err := json.Marshal(&sealed)
	if err != nil {
		return nil, fmt.Errorf("sealing the coordinator kit: %w", err)
	}
	if len(plain) > MaxBytes {
		return nil, fmt.Errorf("sealing the coordinator kit: %w: %d bytes, at most %d", ErrMalformed, len(plain), MaxBytes)
	}
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, recipients...)
	if err != nil {
		return nil, fmt.Errorf("sealing the coordinator kit: %w", err)
	}
	// Writes go to memory: only the closing ones can fail, and do so for good.
	_, werr := w.Write(plain)
	if err := errors.Join(werr, w.Close(), a.Close()); err != nil {
		return nil, fmt.Errorf("sealing the coordinator kit: %w", err)
	}
	return out.Bytes(), nil
}

// Open decrypts and checks a kit, armored or not. Errors wrap ErrKey,
// ErrMalformed or ErrNewer.
func Open(sealed []byte, identities ...age.Identity) (*Kit, error) {
	// Base64 and age's own framing take less than half again.
	if len(sealed) > 2*MaxBytes {
		return nil, fmt.Errorf("opening the coordinator kit: %w: %d bytes", ErrMalformed, len(sealed))
	}
	var in io.Reader = bytes.NewReader(sealed)
	if bytes.HasPrefix(bytes.TrimLeft(sealed, " \t\r\n"), []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, identities...)
	if err != nil {
		if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
			return nil, fmt.Errorf("opening the coordinator kit: %w: give the key that it was made for", ErrKey)
		}
		return nil, fmt.Errorf("opening the coordinator kit: %w: %w", ErrMalformed, err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("opening the coordinator kit: %w: %w", ErrMalformed, err)
	}
	k, err := Parse(plain)
	if err != nil {
		return nil, fmt.Errorf("opening the coordinator kit: %w", err)
	}
	return k, nil
}

// Parse reads and checks a decrypted kit. Unknown fields are refused unless
// the kit is of a newer format, which is refused as such.
func Parse(plain []byte) (*Kit, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := strictjson.Unmarshal(plain, MaxBytes, &version); err != nil {
		return nil, malformed(err)
	}
	if version.Format > Format {
		return nil, fmt.Errorf("%w: format %d, this program reads up to %d: update it", ErrNewer, version.Format, Format)
	}
	var k Kit
	if err := strictjson.UnmarshalKnown(plain, MaxBytes, &k); err != nil {
		return nil, malformed(err)
	}
	if err := k.Check(); err != nil {
		return nil, err
	}
	return &k, nil
}

func malformed(err error) error { return fmt.Errorf("%w: %w", ErrMalformed, err) }
