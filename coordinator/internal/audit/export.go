package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// Records goes through the records from number from on, as they are stored, up
// to the head of when it begins. Whoever has them can verify their chain
// without this program: each names the SHA-256 of the bytes before it.
func (l *Log) Records(ctx context.Context, from uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := l.records(ctx, max(from, 1), func(b []byte) bool { return yield(b, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

// records returns nil when yield wants no more.
func (l *Log) records(ctx context.Context, from uint64, yield func([]byte) bool) error {
	h, err := l.Head(ctx)
	if err != nil {
		return err
	}
	for from <= h.Seq {
		kvs, err := l.store.List(ctx, Prefix, recordKey(from-1), readPage)
		if err != nil {
			return fmt.Errorf("reading the event log: %w", err)
		}
		if len(kvs) == 0 {
			return fmt.Errorf("%w: record %d is missing", ErrTampered, from)
		}
		for _, kv := range kvs {
			e, _, err := decode(kv)
			if err != nil {
				return err
			}
			if e.Seq != from {
				return fmt.Errorf("%w: record %d is missing", ErrTampered, from)
			}
			if from > h.Seq || !yield(kv.Value) {
				return nil
			}
			from++
		}
	}
	return nil
}

// Record returns a record as it is stored; nil where there is none of that
// number, nor one that says so.
func (l *Log) Record(ctx context.Context, seq uint64) ([]byte, error) {
	kv, err := l.store.Get(ctx, recordKey(seq))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the event log: %w", err)
	}
	if _, _, err := decode(kv); err != nil {
		return nil, nil //nolint:nilerr // To who asks for this one, another in its place is none.
	}
	return kv.Value, nil
}

// HashOf is the hash by which the next record names this one.
func HashOf(record []byte) string { return hashOf(record) }
