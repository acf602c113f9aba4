package bolt

import (
	"context"
	"sync"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// settling keeps readers from what a power cut could take back: bbolt shows a
// transaction from when its meta page is written, which is before that is
// flushed. A reader that comes in between waits, for one flush at most; those
// before and after don't.
type settling struct {
	mu sync.Mutex // guards what follows
	// settled is the newest transaction that is durable.
	settled int
	// writing is closed when the transaction being written is durable, or failed;
	// nil while none is written.
	writing chan struct{}
}

// begin says that a transaction may become visible from now on. The caller holds
// writeMu.
func (s *settling) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = make(chan struct{})
}

// end says that the transaction is durable; 0 that it failed.
func (s *settling) end(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = max(s.settled, id)
	if s.writing != nil {
		close(s.writing)
		s.writing = nil
	}
}

// wait returns when the transaction that a reader sees is durable. Errors:
// store.ErrFailed when it did not become so, and that of ctx.
func (s *settling) wait(ctx context.Context, id int) error {
	s.mu.Lock()
	settled, writing := s.settled, s.writing
	s.mu.Unlock()
	if id <= settled {
		return nil
	}
	if writing != nil {
		select {
		case <-writing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id > s.settled {
		return store.ErrFailed
	}
	return nil
}

// view runs f with the newest state that is durable.
func (s *Store) view(ctx context.Context, f func(*bbolt.Tx) error) error {
	panicked := false
	err := s.use(func(db *bbolt.DB) error {
		panicked = true // unless what follows returns, or gets as far as f
		err := db.View(func(tx *bbolt.Tx) error {
			panicked = false // View lets go of its locks from here on
			if err := s.settling.wait(ctx, tx.ID()); err != nil {
				return err
			}
			return f(tx)
		})
		panicked = false
		return err
	})
	if panicked {
		s.halt(err)
	}
	return err
}

// settle makes durable what an opened file has: a predecessor may have been
// killed between writing its meta page and flushing it, or its flush may have
// failed. After that the kernel holds the page for clean, and a flush alone would
// do nothing (fsync(2), EIO): so it is written once more, in its place.
func (s *Store) settle() error {
	id := 0
	if err := s.db.View(func(tx *bbolt.Tx) error {
		id = tx.ID()
		return nil
	}); err != nil {
		return err
	}
	size := int64(s.db.Info().PageSize)
	page, at := make([]byte, size), int64(id%2)*size
	if _, err := s.file.ReadAt(page, at); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(page, at); err != nil {
		return err
	}
	if err := s.db.Sync(); err != nil {
		return err
	}
	s.settling.end(id)
	return nil
}
