package enrol

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// token is a token at rest: its key is the token's hash.
type token struct {
	Machine fleet.MachineName `json:"machine"`
	Actor   string            `json:"actor"`
	Created time.Time         `json:"created"`
	Expires time.Time         `json:"expires"`
	// Used is the fingerprint of the key that used it; empty before.
	Used string `json:"used,omitempty"`
	// Certificate that was answered, in DER.
	Certificate []byte `json:"certificate,omitempty"`
}

// CreateToken registers the hash of a token that actor made for a machine of
// the inventory. Errors: registry.ErrUnknownMachine, registry.ErrBanned,
// ErrMalformed.
func (e *Enroller) CreateToken(ctx context.Context, actor string, m fleet.MachineName, hash []byte, ttl time.Duration) (time.Time, error) {
	h, ok := e.o.Registry.Host(m)
	switch {
	case !ok || h.Machine == nil:
		return time.Time{}, fmt.Errorf("making a token for %s: %w", m, registry.ErrUnknownMachine)
	case h.Banned != "":
		return time.Time{}, fmt.Errorf("making a token for %s: %w: %s", m, registry.ErrBanned, h.Banned)
	case len(hash) != sha256.Size:
		return time.Time{}, fmt.Errorf("making a token for %s: %w: the hash has %d bytes", m, ErrMalformed, len(hash))
	case ttl <= 0 || ttl > pki.TokenTTL:
		return time.Time{}, fmt.Errorf("making a token for %s: %w: a life of %s, at most %s", m, ErrMalformed, ttl, pki.TokenTTL)
	}
	e.sweep(ctx)
	now := e.o.Now()
	t := token{Machine: m, Actor: actor, Created: now, Expires: now.Add(ttl)}
	op, err := encode(tokenKey(hash), t)
	if err != nil {
		return time.Time{}, err
	}
	err = e.o.Log.Commit(ctx, audit.Change{
		Conds:   []store.Cond{{Key: op.Key}},
		Ops:     []store.Op{op},
		Entries: []audit.Entry{{Actor: actor, Kind: KindToken, Machine: m, Message: "good until " + t.Expires.UTC().Format(time.RFC3339)}},
	})
	if errors.Is(err, store.ErrConflict) {
		return time.Time{}, fmt.Errorf("making a token for %s: %w: it is registered already", m, ErrMalformed)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("making a token for %s: %w", m, err)
	}
	return t.Expires, nil
}

// sweep forgets tokens that ended long ago. Where it fails, the next does it.
func (e *Enroller) sweep(ctx context.Context) {
	now := e.o.Now()
	var ops []store.Op
	for kv, err := range store.All(ctx, e.o.Store, tokenPrefix) {
		if err != nil {
			e.o.Slog.Warn("forgetting old tokens failed", "error", err)
			return
		}
		var t token
		if err := json.Unmarshal(kv.Value, &t); err != nil || now.Sub(t.Expires) > tokenKept {
			ops = append(ops, store.Op{Key: kv.Key, Delete: true})
		}
		if len(ops) == store.MaxOps {
			break
		}
	}
	if len(ops) == 0 {
		return
	}
	if _, err := e.o.Store.Txn(ctx, nil, ops); err != nil {
		e.o.Slog.Warn("forgetting old tokens failed", "error", err)
	}
}

func tokenKey(hash []byte) string { return tokenPrefix + hex.EncodeToString(hash) }

func encode(key string, t token) (store.Op, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return store.Op{}, fmt.Errorf("encoding a token: %w", err)
	}
	return store.Op{Key: key, Value: b}, nil
}

// ForgetUnused forgets tokens that a store holds as unused. In a store that is
// older than the present they may have been used since.
func ForgetUnused(ctx context.Context, s store.Store) error {
	var ops []store.Op
	for kv, err := range store.All(ctx, s, tokenPrefix) {
		if err != nil {
			return fmt.Errorf("forgetting enrolment tokens: %w", err)
		}
		var t token
		if err := json.Unmarshal(kv.Value, &t); err != nil {
			return fmt.Errorf("forgetting enrolment tokens: decoding %s: %w", kv.Key, err)
		}
		if t.Used == "" {
			ops = append(ops, store.Op{Key: kv.Key, Delete: true})
		}
	}
	for chunk := range slices.Chunk(ops, store.MaxOps) {
		if _, err := s.Txn(ctx, nil, chunk); err != nil {
			return fmt.Errorf("forgetting enrolment tokens: %w", err)
		}
	}
	return nil
}
