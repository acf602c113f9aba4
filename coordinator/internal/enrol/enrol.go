// Package enrol turns one-use tokens into host identities and renews them.
package enrol

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/ca"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// Sentinels that errors of this package wrap.
var (
	// ErrUnknownToken is a token that was never registered, or was forgotten.
	ErrUnknownToken = errors.New("unknown enrolment token")
	// ErrExpiredToken is a token that ran out.
	ErrExpiredToken = errors.New("enrolment token has expired")
	// ErrUsedToken is a token that was used with another key.
	ErrUsedToken = errors.New("enrolment token was used already, with another key")
	// ErrWrongMachine is a token of another machine.
	ErrWrongMachine = errors.New("enrolment token is bound to another machine")
	// ErrTooMany bounds load: try later.
	ErrTooMany = errors.New("too many enrolments at once")
	// ErrMalformed is a request that makes no sense.
	ErrMalformed = errors.New("malformed enrolment")
	// ErrKey is a renewal over another key than that of the certificate.
	ErrKey = errors.New("renewal is over another key")
)

// Kinds of events that this package writes.
const (
	KindToken       audit.Kind = "token-created"
	KindEnrolled    audit.Kind = "host-enrolled"
	KindRenewed     audit.Kind = "identity-renewed"
	KindTokenReused audit.Kind = "token-reused"
	KindTokenWrong  audit.Kind = "token-wrong-machine"
)

const (
	tokenPrefix = "token/"
	// tokenKept is how long a token is remembered after its end, so that a
	// second use of it is known for what it is.
	tokenKept   = 7 * 24 * time.Hour
	maxInstance = 128
	macBytes    = sha256.Size
	// tokenBytes is the size of a token.
	tokenBytes = sha256.Size
	// retries of a change that somebody else's came before.
	retries = 4
)

// Options of an Enroller.
type Options struct {
	Store     store.Store
	Log       *audit.Log
	Registry  *registry.Registry
	Authority *ca.Authority
	Now       func() time.Time
	Slog      *slog.Logger
}

// Enroller enrols hosts.
type Enroller struct {
	o      Options
	bucket *bucket
}

// New makes an enroller.
func New(o Options) *Enroller { return &Enroller{o: o, bucket: newBucket(o.Now())} }

// Request asks for a host identity.
type Request struct {
	Machine  fleet.MachineName
	Token    []byte
	CSR      []byte
	HostKeys []byte
	MAC      []byte
	Instance string
}

// Enrol exchanges a token for a certificate in DER. The same token with the
// same key is answered again with the same certificate while the token lives.
// Errors: the sentinels of this package, registry.ErrBanned.
func (e *Enroller) Enrol(ctx context.Context, r Request) ([]byte, error) {
	if err := checkRequest(r); err != nil {
		return nil, fmt.Errorf("enrolling %s: %w", r.Machine, err)
	}
	for try := range retries {
		cert, err := e.enrol(ctx, r, try == 0)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("enrolling %s: %w", r.Machine, err)
		}
		return cert, nil
	}
	return nil, fmt.Errorf("enrolling %s: %w", r.Machine, ErrTooMany)
}

// checkRequest is what a stranger's request costs: no signature is checked
// before the token is known.
func checkRequest(r Request) error {
	if _, err := fleet.ParseMachineName(string(r.Machine)); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case len(r.Token) != tokenBytes:
		return fmt.Errorf("%w: a token of %d bytes", ErrMalformed, len(r.Token))
	case len(r.MAC) != macBytes:
		return fmt.Errorf("%w: a proof of %d bytes", ErrMalformed, len(r.MAC))
	case r.Instance == "" || len(r.Instance) > maxInstance:
		return fmt.Errorf("%w: instance id missing or too long", ErrMalformed)
	}
	return nil
}

func (e *Enroller) enrol(ctx context.Context, r Request, first bool) ([]byte, error) {
	hash := sha256.Sum256(r.Token)
	kv, err := e.o.Store.Get(ctx, tokenKey(hash[:]))
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrUnknownToken
	}
	if err != nil {
		return nil, err
	}
	// Only now: who knows no token must not use up others' turns.
	if first && !e.bucket.take(e.o.Now()) {
		return nil, ErrTooMany
	}
	var t token
	if err := json.Unmarshal(kv.Value, &t); err != nil {
		return nil, fmt.Errorf("decoding a token: %w", err)
	}
	if t.Machine != r.Machine {
		e.o.Registry.Alarm(ctx, t.Machine, KindTokenWrong, fmt.Sprintf("the token of this machine was shown for %s", r.Machine))
		return nil, ErrWrongMachine
	}
	pub, err := pki.ParseCSR(r.CSR)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	fingerprint, err := pki.KeyFingerprint(pub)
	if err != nil {
		return nil, err
	}
	if t.Used != "" && t.Used != fingerprint {
		e.o.Registry.Alarm(ctx, t.Machine, KindTokenReused, "the token of this machine was shown a second time, with another key: somebody saw the join string")
		return nil, ErrUsedToken
	}
	if e.o.Now().After(t.Expires) {
		return nil, fmt.Errorf("%w on %s", ErrExpiredToken, t.Expires.UTC().Format(time.RFC3339))
	}
	if t.Used == fingerprint {
		return t.Certificate, nil
	}
	if err := checkKeys(r); err != nil {
		return nil, err
	}
	leaf, err := e.o.Authority.Host(r.Machine, pub)
	if err != nil {
		return nil, err
	}
	t.Used, t.Certificate = fingerprint, leaf.Raw
	op, err := encode(kv.Key, t)
	if err != nil {
		return nil, err
	}
	id := registry.IdentityOf(leaf)
	id.Enrolled, id.Keys, id.MAC, id.TokenHash = e.o.Now(), r.HostKeys, r.MAC, hash[:]
	err = e.o.Registry.Enrol(ctx, r.Machine, id, r.Instance, audit.Change{
		Conds: []store.Cond{{Key: kv.Key, Revision: kv.Revision}},
		Ops:   []store.Op{op},
		Entries: []audit.Entry{{
			Actor: "host/" + string(r.Machine), Kind: KindEnrolled, Machine: r.Machine,
			Message: fmt.Sprintf("with a token of %s, key %.12s", t.Actor, fingerprint),
		}},
	})
	if err != nil {
		return nil, err
	}
	return leaf.Raw, nil
}

func checkKeys(r Request) error {
	keys, err := pki.ParseHostKeys(r.HostKeys)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if keys.Machine != r.Machine {
		return fmt.Errorf("%w: the host keys are of %s", ErrMalformed, keys.Machine)
	}
	return nil
}

// Renew issues a new certificate over the key of the certificate that the
// caller showed, which the authorizer found registered and not banned. Errors:
// ErrKey, ErrMalformed, registry.ErrSuperseded.
func (e *Enroller) Renew(ctx context.Context, m fleet.MachineName, current *x509.Certificate, csr []byte) ([]byte, error) {
	pub, err := pki.ParseCSR(csr)
	if err != nil {
		return nil, fmt.Errorf("renewing the identity of %s: %w: %w", m, ErrMalformed, err)
	}
	if !pub.Equal(current.PublicKey) {
		return nil, fmt.Errorf("renewing the identity of %s: %w", m, ErrKey)
	}
	leaf, err := e.o.Authority.Host(m, pub)
	if err != nil {
		return nil, fmt.Errorf("renewing the identity of %s: %w", m, err)
	}
	err = e.o.Registry.Renewed(ctx, m, registry.IdentityOf(leaf), audit.Entry{
		Actor: "host/" + string(m), Kind: KindRenewed, Machine: m, Message: "until " + leaf.NotAfter.UTC().Format(time.RFC3339),
	})
	if err != nil {
		return nil, fmt.Errorf("renewing the identity of %s: %w", m, err)
	}
	return leaf.Raw, nil
}
