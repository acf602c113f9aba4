package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// chunk is what an upload holds in memory, in bytes.
const chunk = 128 << 10

var chunks = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// Put uploads a blob of exactly size bytes, of which r has those from offset
// on. Bytes that came are kept when the upload breaks off, so that a later Put
// goes on where Stat says. A second upload of the same blob waits for the
// first, and then finds it complete or goes on with it; one of a blob that is
// complete succeeds without reading.
//
// The status tells what is there now, also with an error. Errors: ErrTooLarge,
// ErrNoSpace, ErrOffset, ErrExcess, ErrShort, ErrDigest, ErrSize, that of ctx,
// of r, or of the disk.
func (s *Store) Put(ctx context.Context, digest fleet.Digest, size, offset uint64, r io.Reader) (Status, error) {
	st, err := s.put(ctx, digest, size, offset, r)
	if err != nil {
		return st, fmt.Errorf("storing blob %s: %w", digest.Short(), explain(err))
	}
	return st, nil
}

func (s *Store) put(ctx context.Context, digest fleet.Digest, size, offset uint64, r io.Reader) (Status, error) {
	if err := s.check(digest, size); err != nil {
		return Status{}, err
	}
	release, err := s.acquire(ctx, digest)
	if err != nil {
		return Status{}, err
	}
	defer release()
	st, err := s.stat(digest, size)
	if err != nil || st.Complete {
		return st, err
	}
	if offset > st.Offset {
		return st, fmt.Errorf("%w: offset %d, but only %d bytes are there", ErrOffset, offset, st.Offset)
	}
	if err := s.reserve(size - offset); err != nil {
		return st, err
	}
	u := &upload{store: s, digest: digest, size: size, at: offset, reserved: size - offset}
	defer func() { s.unreserve(u.reserved) }()
	err = u.run(ctx, r)
	return u.status, err
}

// acquire waits until nobody else uploads the blob.
func (s *Store) acquire(ctx context.Context, digest fleet.Digest) (release func(), err error) {
	for {
		s.mu.Lock()
		other, taken := s.busy[digest]
		if !taken {
			mine := make(chan struct{})
			s.busy[digest] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.busy, digest)
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reserve refuses an upload that would not leave enough free, together with
// those under way.
func (s *Store) reserve(n uint64) error {
	avail, err := s.fs.free(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if need := s.reserved + n; avail < s.MinFree || avail-s.MinFree < need {
		return fmt.Errorf("%w: %d bytes free, %d needed beside a reserve of %d: free some and try again", ErrNoSpace, avail, need, s.MinFree)
	}
	s.reserved += n
	return nil
}

func (s *Store) unreserve(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= n
}

// upload is one Put under way.
type upload struct {
	store  *Store
	digest fleet.Digest
	size   uint64
	at     uint64 // bytes in the file that are also in the hash
	hash   hash.Hash
	// reserved is what this upload still holds of the store's reservation.
	reserved uint64
	status   Status
}

func (u *upload) run(ctx context.Context, r io.Reader) (err error) {
	path := u.store.partialPath(u.digest, u.size)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		u.status.Offset = u.at
		if cerr := f.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	crashpoint.Hit(crashpoint.BlobOpened)
	if err := u.resume(f); err != nil {
		return err
	}
	if err := u.receive(ctx, f, r); err != nil {
		if errors.Is(err, ErrExcess) {
			return errors.Join(err, u.discard(path))
		}
		return err
	}
	if got := fleet.DigestFromSum([sha256.Size]byte(u.hash.Sum(nil))); got != u.digest {
		return errors.Join(fmt.Errorf("%w: the bytes have %s", ErrDigest, got), u.discard(path))
	}
	crashpoint.Hit(crashpoint.BlobWhole)
	// Content before name: a name that is there after a crash has its content.
	if err := u.store.fs.sync(f); err != nil {
		// What the disk has is unknown from here on: begin again.
		return errors.Join(fmt.Errorf("making it durable: %w", err), u.discard(path))
	}
	crashpoint.Hit(crashpoint.BlobSynced)
	if err := u.store.fs.rename(path, u.store.completePath(u.digest)); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BlobRenamed)
	if err := u.store.fs.syncDir(u.store.completeDir()); err != nil {
		// Not acknowledged, so it must not be found as a blob either.
		return errors.Join(err, u.store.fs.rename(u.store.completePath(u.digest), path))
	}
	crashpoint.Hit(crashpoint.BlobDone)
	u.status.Complete = true
	return nil
}

// resume hashes the bytes before the offset and cuts off those behind it.
func (u *upload) resume(f *os.File) error {
	u.hash = sha256.New()
	buf := chunks.Get().(*[]byte) //nolint:forcetypeassert // The pool holds nothing else.
	defer chunks.Put(buf)
	offset := int64(u.at) //nolint:gosec // At most MaxBytes.
	if _, err := io.CopyBuffer(u.hash, io.NewSectionReader(f, 0, offset), *buf); err != nil {
		return fmt.Errorf("reading what is there: %w", err)
	}
	if err := f.Truncate(offset); err != nil {
		return err
	}
	_, err := f.Seek(offset, io.SeekStart)
	return err
}

// receive takes bytes until all that were declared are there and r has ended.
func (u *upload) receive(ctx context.Context, f *os.File, r io.Reader) error {
	buf := chunks.Get().(*[]byte) //nolint:forcetypeassert // The pool holds nothing else.
	defer chunks.Put(buf)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, rerr := r.Read(*buf)
		if uint64(n) > u.size-u.at { //nolint:gosec // Not negative.
			return fmt.Errorf("%w: more than %d", ErrExcess, u.size)
		}
		if n > 0 {
			wrote, err := u.store.fs.write(f, (*buf)[:n])
			u.hash.Write((*buf)[:wrote])
			w := uint64(wrote) //nolint:gosec // Not negative.
			u.at += w
			u.reserved -= w
			u.store.unreserve(w)
			crashpoint.Hit(crashpoint.BlobPart)
			if err != nil {
				return fmt.Errorf("writing: %w", err)
			}
		}
		switch {
		case errors.Is(rerr, io.EOF) && u.at < u.size:
			return fmt.Errorf("%w: %d of %d: upload the rest", ErrShort, u.at, u.size)
		case errors.Is(rerr, io.EOF):
			return nil
		case rerr != nil:
			return fmt.Errorf("receiving: %w", rerr)
		}
	}
}

// discard throws the bytes of the upload away.
func (u *upload) discard(path string) error {
	u.at = 0
	return os.Remove(path)
}

// Sweep removes what uploads left behind that nobody has touched for longer
// than age, and says how much it removed.
func (s *Store) Sweep(ctx context.Context, age time.Duration) (removed int, err error) {
	entries, err := os.ReadDir(s.partialDir())
	if err != nil {
		return 0, fmt.Errorf("sweeping blobs: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		swept, err := s.sweep(e, age)
		if err != nil {
			return removed, fmt.Errorf("sweeping blobs: %w", err)
		}
		if swept {
			removed++
		}
	}
	return removed, nil
}

func (s *Store) sweep(e os.DirEntry, age time.Duration) (bool, error) {
	hex, _, _ := strings.Cut(strings.TrimSuffix(e.Name(), ".bad"), "-")
	// Holding the lock over the removal: an upload that begins meanwhile waits.
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.busy[fleet.Digest("sha256:"+hex)]; taken {
		return false, nil
	}
	fi, err := e.Info()
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// A time far in the future is one from before the clock was set right.
	if d := s.Now().Sub(fi.ModTime()).Abs(); d <= age {
		return false, nil
	}
	err = os.Remove(filepath.Join(s.partialDir(), e.Name()))
	return err == nil, err
}
