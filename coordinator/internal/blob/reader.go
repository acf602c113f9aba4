package blob

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Reader reads one blob. It must be closed.
type Reader struct {
	store  *Store
	digest fleet.Digest
	file   *os.File
	size   uint64
	hash   hash.Hash // nil where the beginning was skipped
	read   uint64
}

func newReader(s *Store, digest fleet.Digest, f *os.File, offset uint64) (*Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r := &Reader{store: s, digest: digest, file: f, size: uint64(fi.Size())} //nolint:gosec // Not negative.
	if offset > r.size {
		return nil, fmt.Errorf("%w: offset %d of %d bytes", ErrOffset, offset, r.size)
	}
	if offset == 0 {
		r.hash = sha256.New()
		return r, nil
	}
	_, err = f.Seek(int64(offset), io.SeekStart) //nolint:gosec // At most the size of a file.
	return r, err
}

// Size is that of the whole blob, in bytes.
func (r *Reader) Size() uint64 { return r.size }

// Read reads on.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.file.Read(p)
	r.read += uint64(n) //nolint:gosec // Not negative.
	if r.hash != nil {
		r.hash.Write(p[:n])
		// Judged with the last byte, for readers that don't wait for io.EOF.
		if errors.Is(err, io.EOF) || r.read == r.size {
			if got := fleet.DigestFromSum([sha256.Size]byte(r.hash.Sum(nil))); got != r.digest {
				return n, r.damaged(got)
			}
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("reading blob %s: %w", r.digest.Short(), err)
	}
	return n, err
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// damaged moves the blob aside: from now on it is not there, and whoever
// publishes it next uploads it again.
func (r *Reader) damaged(got fleet.Digest) error {
	s := r.store
	err := fmt.Errorf("%w: blob %s has the digest %s now: check the disk; publish again to upload it anew", ErrDamaged, r.digest.Short(), got.Short())
	s.Log.Error("stored blob is damaged", "digest", string(r.digest), "found", string(got))
	moved, merr := r.moveAside()
	if moved && s.damagedTo != nil {
		s.damagedTo(r.digest)
	}
	return errors.Join(err, merr)
}

// moveAside takes the blob's name away, unless another reader was faster.
func (r *Reader) moveAside() (bool, error) {
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.completePath(r.digest)
	// Another reader may have been faster, and a sound one be there again.
	mine, err1 := r.file.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		return false, nil
	}
	return true, s.fs.rename(path, filepath.Join(s.partialDir(), r.digest.Hex()+".bad"))
}
