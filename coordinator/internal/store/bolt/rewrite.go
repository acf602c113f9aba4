package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// retryEvery is how long a store that failed waits before it tries again.
const retryEvery = 2 * time.Second

// halt ends the store for good: bbolt panicked and holds its locks. Who waits for
// one of them already waits for ever; nobody else is to.
func (s *Store) halt(err error) {
	s.halted.CompareAndSwap(nil, &err)
	s.watches.closeAll()
}

// fail remembers that a transaction may or may not be on the disk: its meta
// page was written, but not flushed. After such an error the kernel may have
// dropped other pages too, although it once said that they were durable. So
// nothing is answered before all was written anew. The caller holds writeMu.
func (s *Store) fail(id int, err error) {
	s.failed = uint64(id) //nolint:gosec // Not negative.
	s.stateMu.Lock()
	s.ended = err
	s.stateMu.Unlock()
	s.watches.closeAll()
	s.retry()
}

// retry goes on after a failure, where the disk lets it. The caller holds
// writeMu.
func (s *Store) retry() {
	if s.failed == 0 || monotonic().Sub(s.tried) < retryEvery {
		return
	}
	s.tried = monotonic()
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	if !errors.Is(s.ended, store.ErrFailed) {
		return
	}
	if err := contained(s.anew); err != nil {
		s.ended = fmt.Errorf("%w: writing it anew: %w", store.ErrFailed, err)
		return
	}
	s.failed, s.ended = 0, nil
}

// monotonic is for differences only.
func monotonic() time.Time { return time.Now() } //nolint:forbidigo // Not as wall time.

// anew writes the acknowledged state into a new file and opens that. The caller
// holds writeMu and stateMu.
func (s *Store) anew() error {
	if s.db != nil {
		_ = s.db.Close() // Whatever it says: the file is not used any more.
		s.db = nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // It was only read.
	if err := shareLock(f, 0); err != nil {
		return err
	}
	metas, _, err := readMetas(f)
	if err != nil {
		return err
	}
	for _, m := range metas {
		if m.txid >= s.failed {
			continue
		}
		if err := newPages(f, m).check(); err != nil {
			return err
		}
		if err := atomicfile.Write(s.path, 0o600, func(w io.Writer) error { return copyFile(w, f, m) }); err != nil {
			return err
		}
		return s.openContained()
	}
	return damage("the meta page before the change that failed is lost")
}

// copyFile writes the file as one meta page says that it is.
func copyFile(w io.Writer, r io.ReaderAt, m metaPage) error {
	for slot := range int64(2) {
		page := make([]byte, m.pageSize)
		if _, err := r.ReadAt(page, m.slot*m.pageSize); err != nil {
			return err
		}
		native.PutUint64(page, uint64(slot)) //nolint:gosec // 0 or 1.
		meta := page[pageHeader : pageHeader+metaLen]
		if slot != m.slot {
			native.PutUint64(meta[48:], m.txid-1)
		}
		native.PutUint64(meta[metaSummed:], metaSum(meta))
		if _, err := w.Write(page); err != nil {
			return err
		}
	}
	rest := io.NewSectionReader(r, 2*m.pageSize, int64(m.pages)*m.pageSize-2*m.pageSize) //nolint:gosec // Below 2^40 pages.
	_, err := io.Copy(w, rest)
	return err
}

// Snapshot copies the store as it is at one moment to a new file at path,
// durable, while others use it. Errors: store.ErrCorrupt, store.ErrNoSpace, of
// the file system.
func (s *Store) Snapshot(ctx context.Context, path string) error {
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		return atomicfile.Write(path, 0o600, func(w io.Writer) error {
			_, err := tx.WriteTo(w)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("copying store to %s: %w", filepath.Base(path), err)
	}
	return nil
}
