// Package audit is the event log of the coordinator: every change of state by
// operator or host, with its actor, in the same transaction as the change.
//
// Each record holds the SHA-256 of the bytes of the one before, and the head
// names the last one, so that a record altered, dropped or moved is found by
// Verify. Who can write the store could compute a whole new chain: that shows
// only against a Checkpoint kept elsewhere.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Keys in the store. Nobody else writes below them.
const (
	// Prefix is that of the records; their sequence number follows, with
	// leading zeros.
	Prefix  = "audit/record/"
	headKey = "audit/head"
)

// MaxMessage bounds a message in bytes; what goes beyond is cut off.
const MaxMessage = 4 << 10

// MaxEntries bounds the entries of one Change; its operations and entries
// together must leave room for the head.
const MaxEntries = store.MaxOps - 1

// ErrTampered says that the log is not what was written.
var ErrTampered = errors.New("event log was tampered with")

// Kind is what kind of thing happened, in kebab case.
type Kind string

// Entry is one event to be written.
type Entry struct {
	// Actor is who caused it, as the path of a SPIFFE id: operator/NAME,
	// host/NAME, coordinator/NAME.
	Actor string
	Kind  Kind
	// Machine concerned, if one.
	Machine fleet.MachineName
	// Message is for people.
	Message string
	// Alarm says that somebody should look.
	Alarm bool
}

// Event is one event of the log.
type Event struct {
	Entry
	// Seq counts from 1 without gaps.
	Seq uint64
	// Time is when it was written.
	Time time.Time
	// Hash is the SHA-256 of the record's bytes in hex: what the next chains to.
	Hash string
}

// Change is a change of the store with the events that tell of it.
type Change struct {
	Conds   []store.Cond
	Ops     []store.Op
	Entries []Entry
}

// Checkpoint is what somebody knows of the log.
type Checkpoint struct {
	Seq  uint64
	Hash string
}

// Log is the event log.
type Log struct {
	store store.Store
	now   func() time.Time
	log   *slog.Logger

	committer
}

// Open opens the log in a store. What it writes, it writes with the time that
// now tells.
func Open(ctx context.Context, s store.Store, now func() time.Time, log *slog.Logger) (*Log, error) {
	l := &Log{store: s, now: now, log: log}
	l.turn = make(chan struct{}, 1)
	if _, err := l.Head(ctx); err != nil {
		return nil, fmt.Errorf("opening the event log: %w", err)
	}
	return l, nil
}

// record is an event as it is stored.
type record struct {
	Seq     uint64            `json:"seq"`
	Time    time.Time         `json:"time"`
	Prev    string            `json:"prev"`
	Actor   string            `json:"actor"`
	Kind    Kind              `json:"kind"`
	Machine fleet.MachineName `json:"machine,omitempty"`
	Message string            `json:"message,omitempty"`
	Alarm   bool              `json:"alarm,omitempty"`
}

// head names the last record.
type head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// origin is what the first record chains to.
var origin = strings.Repeat("0", 2*sha256.Size)

func recordKey(seq uint64) string { return fmt.Sprintf("%s%020d", Prefix, seq) }

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Head returns the newest event's number and hash; of an empty log 0 and zeros.
func (l *Log) Head(ctx context.Context) (Checkpoint, error) {
	h, _, err := l.readHead(ctx)
	return Checkpoint(h), err
}

func (l *Log) readHead(ctx context.Context) (head, uint64, error) {
	kv, err := l.store.Get(ctx, headKey)
	if errors.Is(err, store.ErrNotFound) {
		return head{Hash: origin}, 0, nil
	}
	if err != nil {
		return head{}, 0, fmt.Errorf("reading the head of the event log: %w", err)
	}
	var h head
	if err := json.Unmarshal(kv.Value, &h); err != nil || fleet.LogHead(h).Validate() != nil {
		return head{}, 0, fmt.Errorf("%w: its head is malformed", ErrTampered)
	}
	return h, kv.Revision, nil
}

// Read returns at most limit (1 to store.MaxList) events from number from on;
// 0 is the same as 1. Fewer than limit means that there are no more yet.
func (l *Log) Read(ctx context.Context, from uint64, limit int) ([]Event, error) {
	from = max(from, 1)
	kvs, err := l.store.List(ctx, Prefix, recordKey(from-1), limit)
	if err != nil {
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	events := make([]Event, 0, len(kvs))
	for _, kv := range kvs {
		e, _, err := decode(kv)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

func decode(kv store.KV) (Event, record, error) {
	var r record
	seq, err := strconv.ParseUint(strings.TrimPrefix(kv.Key, Prefix), 10, 64)
	if err != nil || recordKey(seq) != kv.Key {
		return Event{}, r, fmt.Errorf("%w: a record has the key %q", ErrTampered, kv.Key)
	}
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return Event{}, r, fmt.Errorf("%w: record %d is malformed: %w", ErrTampered, seq, err)
	}
	if r.Seq != seq {
		return Event{}, r, fmt.Errorf("%w: record %d is in the place of %d", ErrTampered, r.Seq, seq)
	}
	return Event{
		Entry: Entry{Actor: r.Actor, Kind: r.Kind, Machine: r.Machine, Message: r.Message, Alarm: r.Alarm},
		Seq:   r.Seq, Time: r.Time, Hash: hashOf(kv.Value),
	}, r, nil
}

// encode makes the record of an entry after h, and the head after it.
func encode(h head, at time.Time, e Entry) (store.Op, head, error) {
	r := record{
		Seq: h.Seq + 1, Time: at.UTC(), Prev: h.Hash,
		Actor: e.Actor, Kind: e.Kind, Machine: e.Machine, Message: clip(e.Message), Alarm: e.Alarm,
	}
	b, err := json.Marshal(r)
	if err != nil {
		return store.Op{}, h, fmt.Errorf("encoding an event: %w", err)
	}
	return store.Op{Key: recordKey(r.Seq), Value: b}, head{Seq: r.Seq, Hash: hashOf(b)}, nil
}

// clip cuts a message at the boundary of a character.
func clip(s string) string {
	if len(s) <= MaxMessage {
		return s
	}
	cut := MaxMessage
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
