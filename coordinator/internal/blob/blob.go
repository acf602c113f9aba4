// Package blob keeps content-addressed blobs in a directory:
//
//	sha256/HEX         a blob, complete and verified
//	partial/HEX-SIZE   an upload that has not ended
//	partial/HEX.bad    a blob that was found damaged, kept for a while
//
// An upload is hashed while it streams and becomes a blob only when size and
// digest are right: its file is fsynced before it is renamed into sha256/, and
// that directory after it, so that a blob which was acknowledged is whole
// after any crash. What a crash leaves of an upload is not trusted: the bytes
// that are there are hashed again when it goes on.
package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

var (
	// ErrNotFound says that the blob is not there.
	ErrNotFound = errors.New("no such blob")
	// ErrTooLarge says that a blob is larger than this store takes.
	ErrTooLarge = errors.New("blob too large")
	// ErrNoSpace says that the disk has no room for it.
	ErrNoSpace = errors.New("no space for blob")
	// ErrOffset says that an upload or a download begins behind the bytes that
	// are there. Who uploads asks Stat and begins there.
	ErrOffset = errors.New("offset beyond what is there")
	// ErrExcess says that more bytes came than were declared.
	ErrExcess = errors.New("more bytes than declared")
	// ErrShort says that fewer bytes came than were declared. They are kept.
	ErrShort = errors.New("fewer bytes than declared")
	// ErrDigest says that the bytes have another digest. They are thrown away.
	ErrDigest = errors.New("wrong digest")
	// ErrSize says that the blob with this digest has another size.
	ErrSize = errors.New("wrong size")
	// ErrDamaged says that a stored blob is no longer what it was. It is moved
	// aside, so that it can be uploaded again.
	ErrDamaged = errors.New("stored blob is damaged")
)

// Options of a store. The zero value of each field has a default.
type Options struct {
	// MaxBytes bounds one blob; default 8 GiB.
	MaxBytes uint64
	// MinFree is what uploads leave free on the disk, in bytes; default 256 MiB.
	MinFree uint64
	// Now tells the time; default time.Now.
	Now func() time.Time
	// Log is for damage found; default slog.Default.
	Log *slog.Logger
}

// Defaults of Options.
const (
	DefaultMaxBytes = 8 << 30
	DefaultMinFree  = 256 << 20
)

// Status is how much of a blob is there.
type Status struct {
	Complete bool
	// Offset is the number of bytes that are there: where an upload goes on.
	Offset uint64
}

// Store is a directory of blobs. One process may use a directory at a time.
type Store struct {
	dir string
	Options
	// damagedTo is told of every blob that is found damaged.
	damagedTo func(fleet.Digest)
	fs        files

	mu       sync.Mutex // guards busy and reserved
	busy     map[fleet.Digest]chan struct{}
	reserved uint64 // bytes that uploads under way will still write
}

// OnDamage has f called for every blob that is found damaged. It is set once,
// before the store is used.
func (s *Store) OnDamage(f func(fleet.Digest)) { s.damagedTo = f }

// files is what a store does to the disk that can fail in ways which no test
// could bring about otherwise.
type files struct {
	write   func(*os.File, []byte) (int, error)
	sync    func(*os.File) error
	syncDir func(dir string) error
	rename  func(from, to string) error
	free    func(dir string) (uint64, error)
}

func realFiles() files {
	return files{write: (*os.File).Write, sync: (*os.File).Sync, syncDir: atomicfile.SyncDir, rename: os.Rename, free: free}
}

// free returns the bytes that an unprivileged user may still write.
func free(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking for free space of %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec // A block size is positive.
}

// Open opens or makes the directory, and checks that it can be written to.
func Open(dir string, o Options) (*Store, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MinFree == 0 {
		o.MinFree = DefaultMinFree
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // The default of what is injected.
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Store{dir: dir, Options: o, fs: realFiles(), busy: make(map[fleet.Digest]chan struct{})}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("opening blob store: %w", err)
	}
	crashpoint.Hit(crashpoint.BlobsOpened)
	return s, nil
}

func (s *Store) prepare() error {
	for _, d := range []string{s.dir, s.completeDir(), s.partialDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return explain(err)
		}
		if err := atomicfile.SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
		// Names that a process gave just before it was killed are not durable yet.
		if err := atomicfile.SyncDir(d); err != nil {
			return err
		}
		probe, err := os.CreateTemp(d, ".probe-*")
		if err != nil {
			return explain(err)
		}
		if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
			return explain(err)
		}
	}
	return nil
}

// explain adds what to do to errors of the disk.
func explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: the state directory must be writable for the coordinator's user", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w: free some and try again", ErrNoSpace, err)
	}
	return err
}

func (s *Store) completeDir() string { return filepath.Join(s.dir, "sha256") }
func (s *Store) partialDir() string  { return filepath.Join(s.dir, "partial") }

func (s *Store) completePath(d fleet.Digest) string {
	return filepath.Join(s.completeDir(), d.Hex())
}

func (s *Store) partialPath(d fleet.Digest, size uint64) string {
	return filepath.Join(s.partialDir(), d.Hex()+"-"+strconv.FormatUint(size, 10))
}

// check refuses what could never be a blob of this store.
func (s *Store) check(digest fleet.Digest, size uint64) error {
	if _, err := fleet.ParseDigest(string(digest)); err != nil {
		return err
	}
	if size > s.MaxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, s.MaxBytes)
	}
	return nil
}

// Stat says how much of a blob is there. Errors: ErrSize, ErrTooLarge, those
// of the disk.
func (s *Store) Stat(digest fleet.Digest, size uint64) (Status, error) {
	if err := s.check(digest, size); err != nil {
		return Status{}, fmt.Errorf("looking for blob %s: %w", digest.Short(), err)
	}
	st, err := s.stat(digest, size)
	if err != nil {
		return Status{}, fmt.Errorf("looking for blob %s: %w", digest.Short(), err)
	}
	if st.Complete {
		// Between rename and fsync of the directory it is not durable yet: who
		// asks then is to Put from its end, which waits.
		s.mu.Lock()
		_, uploading := s.busy[digest]
		s.mu.Unlock()
		st.Complete = !uploading
	}
	return st, nil
}

func (s *Store) stat(digest fleet.Digest, size uint64) (Status, error) {
	fi, err := os.Stat(s.completePath(digest)) //nolint:gosec // Made of a checked digest.
	if err == nil {
		have := uint64(fi.Size()) //nolint:gosec // Sizes of files are not negative.
		if have != size {
			return Status{}, fmt.Errorf("%w: it has %d bytes, not %d", ErrSize, have, size)
		}
		return Status{Complete: true, Offset: size}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Status{}, err
	}
	fi, err = os.Stat(s.partialPath(digest, size)) //nolint:gosec // As above.
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, nil
	}
	if err != nil {
		return Status{}, err
	}
	return Status{Offset: min(uint64(fi.Size()), size)}, nil //nolint:gosec // Sizes of files are not negative.
}

// Open reads a blob from an offset on. Reading it from its beginning to its
// end checks the digest on the way: the last Read then fails with ErrDamaged
// instead of io.EOF. Errors: ErrNotFound, ErrOffset, those of the disk.
func (s *Store) Open(digest fleet.Digest, offset uint64) (*Reader, error) {
	r, err := s.open(digest, offset)
	if err != nil {
		return nil, fmt.Errorf("opening blob %s: %w", digest.Short(), err)
	}
	return r, nil
}

func (s *Store) open(digest fleet.Digest, offset uint64) (*Reader, error) {
	if err := s.check(digest, 0); err != nil {
		return nil, err
	}
	f, err := os.Open(s.completePath(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	r, err := newReader(s, digest, f, offset)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

var _ io.ReadCloser = (*Reader)(nil)
