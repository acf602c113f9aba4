// Package store is the contract of the coordinator's key-value store: small
// enough that a single file, etcd or memory can carry it. Every
// implementation passes the suite in storetest.
//
// A reader that keeps a copy of a prefix up to date calls Watch first, then
// All, and then takes every event whose revision is above that of its own
// copy of the key. When the channel closes it starts again.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"unicode/utf8"
)

// Limits that every implementation keeps.
const (
	// MaxOps bounds the operations of one transaction, and apart from them
	// its conditions.
	MaxOps = 100
	// MaxTxnBytes bounds keys and values of one transaction together.
	MaxTxnBytes = 1 << 20
	// MaxKeyBytes bounds one key.
	MaxKeyBytes = 1 << 10
	// MaxList bounds one List.
	MaxList = 1000
)

var (
	// ErrNotFound says that the key does not exist.
	ErrNotFound = errors.New("no such key")
	// ErrConflict says that a condition did not hold: nothing was written. Who
	// called reads again and decides again.
	ErrConflict = errors.New("changed by somebody else meanwhile")
	// ErrTooLarge says that a transaction goes beyond the limits.
	ErrTooLarge = errors.New("transaction too large")
	// ErrInvalid says that a call is malformed: an error in the caller.
	ErrInvalid = errors.New("malformed store call")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrFailed says that writing failed in a way that leaves unknown what is
	// on the disk: the store answers nothing until it could write all of its
	// state anew, which it tries by itself. What was not acknowledged is not in it
	// then.
	ErrFailed = errors.New("store failed: check the disk; it is tried again")
	// ErrNoSpace says that the disk is full: nothing was written, and the same
	// works when there is room.
	ErrNoSpace = errors.New("disk full")
	// ErrInUse says that another process holds the store.
	ErrInUse = errors.New("another process holds the store")
	// ErrNewerFormat says that a newer version of the program wrote the store.
	ErrNewerFormat = errors.New("store was written by a newer version")
	// ErrCorrupt says that the store's file is damaged.
	ErrCorrupt = errors.New("store is damaged")
)

// KV is a key with its value and the revision of its last modification.
// Value must not be modified: it may be shared.
type KV struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Cond demands that a key has exactly this revision; 0: that it does not exist.
type Cond struct {
	Key      string
	Revision uint64
}

// Op sets a key, or deletes it. Deleting what is not there does nothing.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Event is one modification; of a deletion the Value is empty and the
// Revision that of the deletion.
type Event struct {
	KV
	Deleted bool
}

// Store keeps keys and values. All methods may be called at the same time
// from many goroutines. What a read returns is durable, whoever wrote it.
type Store interface {
	// Get returns one key, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)
	// List returns at most limit (1 to MaxList) keys that begin with prefix and
	// are greater than after, sorted by their bytes. Fewer than limit means
	// that there are no more. One call sees one state; two calls may not.
	List(ctx context.Context, prefix, after string, limit int) ([]KV, error)
	// Txn carries out all ops if all conds hold, and else nothing. A nil error
	// means that it is durable. The revision rises with every transaction that
	// changes something; all keys written carry it. Without a change it is the
	// store's present one. No key may occur in two ops. Once begun, it is not
	// interrupted by the context, so that the outcome is always known.
	// Errors: ErrConflict, ErrTooLarge, ErrInvalid, ErrNoSpace, ErrFailed,
	// ErrCorrupt, ErrClosed.
	Txn(ctx context.Context, conds []Cond, ops []Op) (revision uint64, err error)
	// Watch sends every modification of keys with this prefix whose transaction
	// begins after the call, in the order of revisions. The channel is closed
	// when ctx ends, the store closes, or the reader falls too far behind
	// (which then starts again).
	Watch(ctx context.Context, prefix string) (<-chan Event, error)
	// Close ends the store, and all watches. Later calls return ErrClosed.
	Close() error
}

// CheckKey says whether a key is well-formed.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("%w: key of %d bytes, at most %d", ErrInvalid, len(key), MaxKeyBytes)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: key is not UTF-8", ErrInvalid)
	}
	return nil
}

// CheckList says whether the arguments of a List are well-formed.
func CheckList(limit int) error {
	if limit < 1 || limit > MaxList {
		return fmt.Errorf("%w: limit %d, use 1 to %d", ErrInvalid, limit, MaxList)
	}
	return nil
}

// CheckTxn says whether a transaction keeps the limits.
func CheckTxn(conds []Cond, ops []Op) error {
	if len(ops) > MaxOps || len(conds) > MaxOps {
		return fmt.Errorf("%w: %d conditions and %d operations, at most %d each", ErrTooLarge, len(conds), len(ops), MaxOps)
	}
	size := 0
	for _, c := range conds {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
		size += len(c.Key)
	}
	seen := make(map[string]struct{}, len(ops))
	for _, op := range ops {
		if err := CheckKey(op.Key); err != nil {
			return err
		}
		if _, twice := seen[op.Key]; twice {
			return fmt.Errorf("%w: key %q in two operations", ErrInvalid, op.Key)
		}
		seen[op.Key] = struct{}{}
		size += len(op.Key) + len(op.Value)
	}
	if size > MaxTxnBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, MaxTxnBytes)
	}
	return nil
}

// allPage is small, so that All over large values stays bounded.
const allPage = 64

// All goes through every key with this prefix, sorted, page by page. It ends
// after the first error. It is not one snapshot: see the package comment.
func All(ctx context.Context, s Store, prefix string) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		after := ""
		for {
			page, err := s.List(ctx, prefix, after, allPage)
			if err != nil {
				yield(KV{}, err)
				return
			}
			for _, kv := range page {
				if !yield(kv, nil) {
					return
				}
			}
			if len(page) < allPage {
				return
			}
			after = page[len(page)-1].Key
		}
	}
}
