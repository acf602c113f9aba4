package registry

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
)

// Sentinels about operators.
var (
	// ErrUnknownOperator names nobody who may call.
	ErrUnknownOperator = errors.New("unknown operator")
	// ErrOwnRole keeps admins from locking themselves out by a slip of the pen.
	ErrOwnRole = errors.New("you would be admin no longer")
	// ErrNoCertificate is a change of role of somebody who has no certificate.
	ErrNoCertificate = errors.New("a new operator needs a certificate")
	// ErrTooManyOperators bounds operators, those removed included.
	ErrTooManyOperators = errors.New("too many operators")
)

// Kinds of events about operators.
const (
	KindOperatorAdded   audit.Kind = "operator-added"
	KindOperatorRemoved audit.Kind = "operator-removed"
	KindOperatorRenewed audit.Kind = "operator-renewed"
)

// Operator is a person or program that may call the coordinator, or no longer
// may.
type Operator struct {
	Name fleet.OperatorName `json:"name"`
	Role fleet.Role         `json:"role"`
	// Key is the fingerprint of the only key whose certificates count, as that
	// of an Identity; empty where the fleet's repository names none.
	Key string `json:"key,omitempty"`
	// Changed is when this was recorded: of two records the younger counts.
	// Zero where there is no record but a line of the fleet file.
	Changed time.Time `json:"changed,omitzero"`
	Removed bool      `json:"removed,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// recorded says whether an operator stays, or stays removed, whatever the fleet
// file lists.
func (o Operator) recorded() bool { return !o.Changed.IsZero() }

func (o Operator) equal(p Operator) bool {
	return o.Name == p.Name && o.Role == p.Role && o.Key == p.Key && o.Changed.Equal(p.Changed) && o.Removed == p.Removed && o.Reason == p.Reason
}

// operatorSet is all operators by name. It is replaced, never changed.
type operatorSet map[fleet.OperatorName]Operator

// admins counts who may change who is an operator.
func (s operatorSet) admins() int {
	n := 0
	for _, o := range s {
		if o.Role == fleet.RoleAdmin && !o.Removed {
			n++
		}
	}
	return n
}

// merge returns what is so after the repository said list: records are merged,
// the younger of two counts; who is not recorded is there because list has him.
func (s operatorSet) merge(list []Operator) operatorSet {
	out := operatorSet{}
	for name, o := range s {
		if o.recorded() {
			out[name] = o
		}
	}
	for _, o := range list {
		old, known := out[o.Name]
		if !known || !old.recorded() || o.Changed.After(old.Changed) {
			out[o.Name] = o
		}
	}
	return out
}

// ops are the changes of the store from s to next.
func (s operatorSet) ops(next operatorSet) ([]store.Op, error) {
	var ops []store.Op
	for _, name := range slices.Sorted(maps.Keys(next)) {
		if old, ok := s[name]; ok && old.equal(next[name]) {
			continue
		}
		op, err := put(operatorPrefix+string(name), next[name])
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if _, ok := next[name]; !ok {
			ops = append(ops, store.Op{Key: operatorPrefix + string(name), Delete: true})
		}
	}
	return ops, nil
}

// Operator returns who may call under a name; ok is false for who may not, or
// no longer.
func (r *Registry) Operator(name fleet.OperatorName) (Operator, bool) {
	o, ok := (*r.operators.Load())[name]
	return o, ok && !o.Removed
}

// Operators returns all operators by name, those removed included.
func (r *Registry) Operators() []Operator {
	set := *r.operators.Load()
	out := make([]Operator, 0, len(set))
	for _, name := range slices.Sorted(maps.Keys(set)) {
		out = append(out, set[name])
	}
	return out
}

// SetOperator records a new operator, or another role or key of one who is
// there; o.Changed is set here. An empty key keeps the one that is recorded. by
// is who does it. Setting what is so changes nothing. Errors: ErrOwnRole,
// ErrNoAdmin, ErrNoCertificate, ErrTooManyOperators.
func (r *Registry) SetOperator(ctx context.Context, actor string, by fleet.OperatorName, o Operator) (Operator, error) {
	r.inventoryMu.Lock()
	defer r.inventoryMu.Unlock()
	old, known := (*r.operators.Load())[o.Name]
	if o.Key == "" {
		if !known || old.Removed {
			return Operator{}, fmt.Errorf("operator %s: %w", o.Name, ErrNoCertificate)
		}
		o.Key = old.Key
	}
	if known && old.recorded() && !old.Removed && old.Role == o.Role && old.Key == o.Key {
		return old, nil
	}
	if o.Name == by && o.Role != fleet.RoleAdmin {
		return Operator{}, ErrOwnRole
	}
	message := fmt.Sprintf("%s: role %s, key %.12s", o.Name, o.Role, o.Key)
	return r.setOperator(ctx, old, o, audit.Entry{Actor: actor, Kind: KindOperatorAdded, Message: message})
}

// RemoveOperator ends what an operator may do; it is remembered. Removing who
// was removed changes nothing. Errors: ErrUnknownOperator, ErrOwnRole,
// ErrNoAdmin.
func (r *Registry) RemoveOperator(ctx context.Context, actor string, by, name fleet.OperatorName, reason string) (Operator, error) {
	r.inventoryMu.Lock()
	defer r.inventoryMu.Unlock()
	old, known := (*r.operators.Load())[name]
	switch {
	case !known:
		return Operator{}, fmt.Errorf("removing %s: %w", name, ErrUnknownOperator)
	case old.Removed:
		return old, nil
	case name == by:
		return Operator{}, ErrOwnRole
	}
	o := old
	o.Removed, o.Reason = true, reason
	return r.setOperator(ctx, old, o, audit.Entry{Actor: actor, Kind: KindOperatorRemoved, Message: fmt.Sprintf("%s: %s", name, reason)})
}

// setOperator records o, younger than old. inventoryMu is held.
func (r *Registry) setOperator(ctx context.Context, old, o Operator, entry audit.Entry) (Operator, error) {
	o.Changed = r.o.Now().UTC()
	if !o.Changed.After(old.Changed) {
		o.Changed = old.Changed.Add(time.Microsecond)
	}
	next := maps.Clone(*r.operators.Load())
	next[o.Name] = o
	if err := next.check(); err != nil {
		return Operator{}, err
	}
	op, err := put(operatorPrefix+string(o.Name), o)
	if err != nil {
		return Operator{}, err
	}
	if err := r.o.Log.Commit(ctx, audit.Change{Ops: []store.Op{op}, Entries: []audit.Entry{entry}}); err != nil {
		return Operator{}, fmt.Errorf("recording operator %s: %w", o.Name, err)
	}
	r.operators.Store(&next)
	return o, nil
}

func (s operatorSet) check() error {
	if s.admins() == 0 {
		return ErrNoAdmin
	}
	if len(s) > kit.MaxOperators {
		return fmt.Errorf("%w: %d, those removed included, at most %d", ErrTooManyOperators, len(s), kit.MaxOperators)
	}
	return nil
}

// OperatorSeen is the newest call of an operator.
type OperatorSeen struct {
	At int64 `json:"at"` // Unix seconds
	// Expires is the end of the certificate of that call.
	Expires time.Time `json:"expires"`
	// CA is the key id of the CA that the certificate is of, hex; empty where an
	// older coordinator noted the call.
	CA string `json:"ca,omitempty"`
}

// sightings are the newest calls of operators.
type sightings struct {
	mu    sync.Mutex // guards what follows
	seen  map[fleet.OperatorName]OperatorSeen
	dirty map[fleet.OperatorName]bool
}

const operatorSeenPrefix = "operator-seen/"

// TouchOperator notes a call of an operator, with the certificate of it; it is
// written within FlushEvery.
func (r *Registry) TouchOperator(name fleet.OperatorName, leaf *x509.Certificate) {
	seen := OperatorSeen{At: r.o.Now().Unix(), Expires: leaf.NotAfter.UTC(), CA: hex.EncodeToString(leaf.AuthorityKeyId)}
	s := &r.sightings
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[name] == seen {
		return
	}
	s.seen[name] = seen
	s.dirty[name] = true
}

// OperatorSeen returns the newest call of an operator; zero for none.
func (r *Registry) OperatorSeen(name fleet.OperatorName) OperatorSeen {
	r.sightings.mu.Lock()
	defer r.sightings.mu.Unlock()
	return r.sightings.seen[name]
}

func (r *Registry) loadSightings(ctx context.Context) error {
	s := &r.sightings
	s.seen, s.dirty = map[fleet.OperatorName]OperatorSeen{}, map[fleet.OperatorName]bool{}
	return each(ctx, r.o.Store, operatorSeenPrefix, func(name string, v OperatorSeen) error {
		s.seen[fleet.OperatorName(name)] = v
		return nil
	})
}

// flushSightings writes what changed.
func (r *Registry) flushSightings(ctx context.Context) error {
	s := &r.sightings
	s.mu.Lock()
	names := slices.SortedFunc(maps.Keys(s.dirty), func(a, b fleet.OperatorName) int { return strings.Compare(string(a), string(b)) })
	var ops []store.Op
	var err error
	for _, name := range names {
		var op store.Op
		if op, err = put(operatorSeenPrefix+string(name), s.seen[name]); err != nil {
			break
		}
		ops = append(ops, op)
	}
	clear(s.dirty)
	s.mu.Unlock()
	for chunk := range slices.Chunk(ops, maxChangeOps) {
		if err == nil {
			_, err = r.o.Store.Txn(ctx, nil, chunk)
		}
	}
	if err != nil {
		s.mu.Lock()
		for _, name := range names {
			s.dirty[name] = true
		}
		s.mu.Unlock()
	}
	return err
}
