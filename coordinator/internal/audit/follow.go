package audit

import (
	"context"
	"fmt"
	"iter"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// readPage bounds what is held in memory at once while reading the log.
const readPage = 256

// Follow goes through the events from number from on and then waits for new
// ones, for ever. It ends with an error: that of ctx when ctx ends,
// store.ErrClosed when the store closes. A slow reader misses nothing and
// holds up nobody.
func (l *Log) Follow(ctx context.Context, from uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := l.follow(ctx, max(from, 1), func(e Event) bool { return yield(e, nil) }); err != nil {
			yield(Event{}, err)
		}
	}
}

// follow returns nil when yield wants no more.
func (l *Log) follow(ctx context.Context, from uint64, yield func(Event) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		// The watch tells only that there is more, and is opened before reading,
		// so that nothing falls between.
		moved, err := l.store.Watch(ctx, headKey)
		if err != nil {
			return fmt.Errorf("following the event log: %w", err)
		}
		for open := true; open; {
			page, err := l.Read(ctx, from, readPage)
			if err != nil {
				return err
			}
			for _, e := range page {
				if e.Seq != from {
					return fmt.Errorf("%w: record %d is missing", ErrTampered, from)
				}
				if !yield(e) {
					return nil
				}
				from++
			}
			if len(page) == readPage {
				continue
			}
			if _, open = <-moved; open {
				open = drain(moved)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// drain takes what waits in the channel, and says whether it is still open.
func drain(ch <-chan store.Event) bool {
	for {
		select {
		case _, open := <-ch:
			if !open {
				return false
			}
		default:
			return true
		}
	}
}

// Verify reads the whole log and checks its chain, while others may go on
// writing. Each known checkpoint must be on the chain. The error wraps
// ErrTampered where the log is not what was written, and names the first
// record concerned.
func (l *Log) Verify(ctx context.Context, known ...Checkpoint) error {
	at := make(map[uint64]string, len(known))
	for _, k := range known {
		if h, twice := at[k.Seq]; twice && h != k.Hash {
			return fmt.Errorf("%w: two checkpoints of record %d differ", ErrTampered, k.Seq)
		}
		at[k.Seq] = k.Hash
	}
	h := head{Hash: origin}
	for again := false; ; again = true {
		moved, err := l.verifyFrom(ctx, &h, at)
		if err != nil {
			return err
		}
		// The head is read after the records. What was written meanwhile is
		// read in the next round, which therefore has to find something.
		end, _, err := l.readHead(ctx)
		switch {
		case err != nil:
			return err
		case end == h:
			return endsBefore(h, known)
		case end.Seq < h.Seq:
			return fmt.Errorf("%w: its head names record %d, but there are %d", ErrTampered, end.Seq, h.Seq)
		case end.Seq == h.Seq:
			return fmt.Errorf("%w: record %d is not the one that the head names", ErrTampered, h.Seq)
		case again && !moved:
			return fmt.Errorf("%w: record %d is missing", ErrTampered, h.Seq+1)
		}
	}
}

func endsBefore(h head, known []Checkpoint) error {
	for _, k := range known {
		if k.Seq > h.Seq {
			return fmt.Errorf("%w: it ends at record %d, but %d was known", ErrTampered, h.Seq, k.Seq)
		}
	}
	return nil
}

// verifyFrom moves h along the chain to its end, and says whether it moved.
func (l *Log) verifyFrom(ctx context.Context, h *head, known map[uint64]string) (moved bool, err error) {
	for {
		after := "" // at first everything, also what has no business there
		if h.Seq > 0 {
			after = recordKey(h.Seq)
		}
		kvs, err := l.store.List(ctx, Prefix, after, readPage)
		if err != nil {
			return moved, fmt.Errorf("reading the event log: %w", err)
		}
		for _, kv := range kvs {
			e, r, err := decode(kv)
			switch {
			case err != nil:
				return moved, err
			case e.Seq != h.Seq+1:
				return moved, fmt.Errorf("%w: record %d is missing", ErrTampered, h.Seq+1)
			case r.Prev != h.Hash:
				return moved, fmt.Errorf("%w: record %d is not the one that record %d follows", ErrTampered, h.Seq, e.Seq)
			}
			if want, ok := known[e.Seq]; ok && want != e.Hash {
				return moved, fmt.Errorf("%w: record %d is not the one that was known", ErrTampered, e.Seq)
			}
			*h, moved = head{Seq: e.Seq, Hash: e.Hash}, true
		}
		if len(kvs) < readPage {
			return moved, nil
		}
	}
}
