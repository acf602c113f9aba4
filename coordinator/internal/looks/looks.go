// Package looks keeps what operators countersigned of the event log: of each
// operator the newest head that they saw. A log that was written anew does not
// have those records, and no longer finds anybody who signed the ones it has.
package looks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// prefix of the keys in the store; an operator's name follows.
const prefix = "look/"

// Sentinels that errors of this package wrap.
var (
	// ErrWrong is a look that its bringer can't have signed for this fleet.
	ErrWrong = errors.New("it is no look at this fleet's event log by its bringer")
	// ErrOtherLog is a head that the log does not have.
	ErrOtherLog = errors.New("the event log does not have that record")
)

// look is as it is stored.
type look struct {
	Head     fleet.LogHead `json:"head"`
	Envelope []byte        `json:"envelope"`
}

// Looks are the newest of each operator. Safe for concurrent use.
type Looks struct {
	store store.Store
	log   *audit.Log
	fleet fleet.FleetID

	mu sync.RWMutex // guards what follows
	by map[fleet.OperatorName]look
}

// Open reads those that are kept. One that can't be read is left out, and said:
// it keeps nothing else from working.
func Open(ctx context.Context, s store.Store, log *audit.Log, f fleet.FleetID, logger *slog.Logger) (*Looks, error) {
	l := &Looks{store: s, log: log, fleet: f, by: map[fleet.OperatorName]look{}}
	for kv, err := range store.All(ctx, s, prefix) {
		if err != nil {
			return nil, fmt.Errorf("reading what operators countersigned: %w", err)
		}
		v := look{}
		err := strictjson.Unmarshal(kv.Value, 2*fleet.MaxLookBytes, &v)
		if err == nil {
			err = v.Head.Validate() // Hosts are told of it.
		}
		if err != nil {
			logger.Warn("what an operator countersigned can't be read any more", "key", kv.Key, "error", err)
			continue
		}
		l.by[fleet.OperatorName(strings.TrimPrefix(kv.Key, prefix))] = v
	}
	return l, nil
}

// Take verifies a look of an operator, whose certificate has the key pub, and
// keeps it where it is newer than the one before. It returns when it is durable.
// Errors: ErrWrong, ErrOtherLog, refusals of pkg/release, those of the store.
func (l *Looks) Take(ctx context.Context, name fleet.OperatorName, pub ed25519.PublicKey, envelope []byte) error {
	signed, err := release.OpenLook(envelope, pub)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if signed.Operator != name || signed.Fleet != l.fleet {
		return fmt.Errorf("taking a look of %s: %w", name, ErrWrong)
	}
	record, err := l.log.Record(ctx, signed.Head.Seq)
	if err != nil {
		return fmt.Errorf("taking a look of %s: %w", name, err)
	}
	if record == nil || audit.HashOf(record) != signed.Head.Hash {
		return fmt.Errorf("taking a look of %s at %d: %w", name, signed.Head.Seq, ErrOtherLog)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old, known := l.by[name]
	switch {
	// One that is not on this log is worth more than any that is, and stays until
	// people made out why.
	case known && old.Head.Seq >= signed.Head.Seq:
		return nil
	case !known && len(l.by) >= kit.MaxOperators:
		return fmt.Errorf("taking a look of %s: more operators than there can be have looked", name)
	}
	next := look{signed.Head, envelope}
	value, err := encode(next)
	if err != nil {
		return err
	}
	if _, err := l.store.Txn(ctx, nil, []store.Op{{Key: prefix + string(name), Value: value}}); err != nil {
		return fmt.Errorf("keeping a look of %s: %w", name, err)
	}
	l.by[name] = next
	return nil
}

// MaxShown is how many looks are shown at most: those at the highest heads.
const MaxShown = 128

// Shown returns the envelopes, the highest head first.
func (l *Looks) Shown() [][]byte {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := slices.SortedFunc(maps.Values(l.by), func(a, b look) int {
		return cmp.Or(cmp.Compare(b.Head.Seq, a.Head.Seq), bytes.Compare(a.Envelope, b.Envelope))
	})
	var out [][]byte
	for _, v := range all[:min(len(all), MaxShown)] {
		out = append(out, v.Envelope)
	}
	return out
}

// Newest returns the highest head that was countersigned; zero for none.
func (l *Looks) Newest() fleet.LogHead {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var newest fleet.LogHead
	for _, v := range l.by {
		if v.Head.Seq > newest.Seq {
			newest = v.Head
		}
	}
	return newest
}

func encode(l look) ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding a look: %w", err)
	}
	return b, nil
}
