// Package bolt keeps the store in one bbolt file.
//
// What makes an acknowledged transaction durable: bbolt writes the changed
// pages to unused places, fsyncs, then writes one of two checksummed meta
// pages and fsyncs again. A crash before the second write leaves the old
// state, one after it the new. Of the options that trade safety for speed none
// is set (NoSync, NoGrowSync); NoFreelistSync is none of them: the list of
// free pages is derived from the tree, and is made anew at every start.
// bbolt does not fsync the directory after making the file, so Open does.
//
// Transactions that arrive while another is being written wait and are written
// together in one bbolt transaction (each with its own conditions and
// revision): the two fsyncs are paid once for all of them. bbolt shows a change
// before the second fsync; here readers wait for it (see settling).
//
// The file has a bucket "meta" (version, tally) and a bucket "data", where each
// value is preceded by its revision and a checksum, 8 bytes each, big endian.
// The tally holds the store's revision and what all checksums add up to. Open
// reads the whole file and judges every page before bbolt sees it; what rots
// later is found when it is read, and by Check. bbolt trusts its pages, so its
// panics and faults are turned into store.ErrCorrupt.
package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// Format is the version of the file's format that this program writes, and
// the newest that it reads.
const Format = 2

// lockWait is how long Open waits for another process to let go of the file:
// enough for a predecessor that is just ending.
const lockWait = 2 * time.Second

var (
	bucketMeta = []byte("meta")
	bucketData = []byte("data")
	keyVersion = []byte("version")
	keyTally   = []byte("tally")
)

// mapped is how much of the address space the file gets at first, in bytes. A
// file that outgrows it is mapped anew, for which the writer waits for all
// readers, and those who come later wait for the writer.
const mapped = 1 << 30

// growth is by how much the file grows at a time, in bytes. bbolt's own 16 MiB, by
// which it goes once more than that is mapped, would have a new store of nothing be
// read, checked and copied as one of 16 MiB.
const growth = 256 << 10

// Store is a store.Store in one file.
type Store struct {
	path    string
	options bbolt.Options
	notice  string

	queueMu sync.Mutex // guards queue
	queue   []*request

	writeMu sync.Mutex // held while a batch is written and its events are sent

	stateMu sync.RWMutex // guards what follows; held for reading during every use of db
	db      *bbolt.DB
	file    *os.File // that of db
	ended   error    // why nothing is answered any more
	// failed is the transaction that may be on the disk and must not count; 0 for
	// none. tried is when it was last tried to go on. Both belong to writeMu.
	failed uint64
	tried  time.Time

	// halted is why nothing is answered until the end of the process: bbolt
	// panicked with locks that it holds for ever, so that nobody may wait for them,
	// nor for what others hold who do.
	halted atomic.Pointer[error]

	watches  watches
	settling settling
}

var _ store.Store = (*Store)(nil)

// Open opens or makes the store in the file path, whose directory must exist.
// Errors: store.ErrInUse, store.ErrNewerFormat, store.ErrCorrupt, or those of
// the file system.
func Open(path string) (*Store, error) {
	s, err := open(path, bbolt.Options{Timeout: lockWait})
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", path, err)
	}
	return s, nil
}

func open(path string, o bbolt.Options) (*Store, error) {
	notice, err := checkFile(path, o.Timeout)
	if err != nil {
		return nil, err
	}
	o.InitialMmapSize = mapped
	unborn := isUnborn(path)
	o.NoFreelistSync = true
	o.FreelistType = bbolt.FreelistMapType
	s := &Store{path: path, options: o, notice: notice}
	openFile := o.OpenFile
	if openFile == nil {
		openFile = os.OpenFile
	}
	s.options.OpenFile = func(name string, flag int, perm os.FileMode) (f *os.File, err error) {
		s.file, err = openFile(name, flag, perm)
		return s.file, err
	}
	if err := s.openContained(); err != nil {
		if unborn {
			err = errors.Join(err, s.unmake())
		}
		return nil, err
	}
	return s, nil
}

// isUnborn says whether there is no store yet in a file that was checked.
func isUnborn(path string) bool {
	fi, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0
}

// unmake empties a file that this process began and could not make a store, for
// want of room, say: the next start would take what is half written for a store
// that was damaged.
func (s *Store) unmake() (err error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("emptying what is half made: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil //nolint:nilerr // Another one makes it a store just now.
	}
	if _, err := check(f); err == nil {
		return nil
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("emptying what is half made: %w", err)
	}
	return nil
}

// openContained opens a file that was checked, and keeps none after an error.
func (s *Store) openContained() error {
	whole := false
	err := contained(func() error {
		err := s.openFile()
		whole = true
		return err
	})
	if !whole && s.file != nil {
		err = errors.Join(err, s.letGo())
	}
	if err != nil {
		s.db = nil
	}
	return err
}

// openFile opens a file that was checked.
func (s *Store) openFile() (err error) {
	s.db, err = bbolt.Open(s.path, 0o600, &s.options)
	if err != nil {
		return explain(err)
	}
	s.db.AllocSize = growth
	err = s.prepare()
	if err == nil {
		err = s.settle()
	}
	if err != nil {
		return errors.Join(explain(err), s.db.Close())
	}
	return nil
}

// letGo gives the file back without bbolt, whose locks nobody can have any
// more. Closing alone would not do: its mapping keeps the file locked.
func (s *Store) letGo() error {
	return errors.Join(unix.Flock(int(s.file.Fd()), unix.LOCK_UN), s.file.Close())
}

// Notice says what Open found out that is no error, and somebody should know;
// empty for nothing.
func (s *Store) Notice() string { return s.notice }

// Check reads the whole file again, while others use it, and returns
// store.ErrCorrupt where it is no longer what was written. While it reads, a
// transaction that makes the file larger than is mapped waits, and all with it.
func (s *Store) Check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// Two transactions from now its meta page is another's.
	s.writeMu.Lock()
	goOn := sync.OnceFunc(s.writeMu.Unlock)
	defer goOn()
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		// The transaction keeps its pages from being used again.
		f, err := os.Open(s.path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // It was only read.
		metas, _, err := readMetas(f)
		goOn()
		if err != nil {
			return err
		}
		for _, m := range metas {
			if m.txid == uint64(tx.ID()) { //nolint:gosec // Not negative.
				return newPages(f, m).check()
			}
		}
		return damage("the meta page in use is lost")
	})
	if err != nil {
		return fmt.Errorf("checking store %s: %w", s.path, err)
	}
	return nil
}

// prepare makes what a new file needs, and what an older format lacks.
func (s *Store) prepare() error {
	var version []byte
	err := s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta); b != nil {
			version = append(version, b.Get(keyVersion)...)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case version == nil:
		if err := s.db.Update(makeBuckets); err != nil {
			return fmt.Errorf("making it: %w", err)
		}
		crashpoint.Hit(crashpoint.StoreMade)
		return atomicfile.SyncDir(filepath.Dir(s.path))
	case string(version) == formatOne:
		if err := s.db.Update(fromFormatOne); err != nil {
			return fmt.Errorf("bringing it to format %d: %w", Format, err)
		}
	}
	return nil
}

func makeBuckets(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketData); err != nil {
		return err
	}
	if err := meta.Put(keyTally, tally{}.encode()); err != nil {
		return err
	}
	return meta.Put(keyVersion, []byte(strconv.Itoa(Format)))
}

// formatOne had no checksums: each value was preceded by its revision only, and
// the store's revision was a key of its own.
const formatOne = "1"

// fromFormatOne gives every value its checksum.
func fromFormatOne(tx *bbolt.Tx) error {
	meta, data := tx.Bucket(bucketMeta), tx.Bucket(bucketData)
	var t tally
	keyRevision := []byte("revision")
	if raw := meta.Get(keyRevision); len(raw) == 8 {
		t.revision = binary.BigEndian.Uint64(raw)
	}
	// A cursor does not stand a change of what it goes through.
	var keys [][]byte
	if err := data.ForEach(func(k, _ []byte) error {
		keys = append(keys, bytes.Clone(k))
		return nil
	}); err != nil {
		return err
	}
	for _, k := range keys {
		raw := data.Get(k)
		if len(raw) < 8 {
			return damage("the value of %q is cut", k)
		}
		next := encode(string(k), binary.BigEndian.Uint64(raw), raw[8:])
		t.count++
		t.sum += binary.BigEndian.Uint64(next[8:])
		if err := data.Put(k, next); err != nil {
			return err
		}
	}
	if err := meta.Delete(keyRevision); err != nil {
		return err
	}
	if err := meta.Put(keyTally, t.encode()); err != nil {
		return err
	}
	return meta.Put(keyVersion, []byte(strconv.Itoa(Format)))
}

const hintCorrupt = "restore a backup, or move the file away (hosts and publishers refill an empty store)"

// explain turns bbolt's errors into the contract's.
func explain(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: is a coordinator running already? End it first", store.ErrInUse)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum),
		errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrInvalidMapping):
		return fmt.Errorf("%w: %w: %s", store.ErrCorrupt, err, hintCorrupt)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: the state directory and the file must be writable for the coordinator's user", err)
	}
	return err
}

// use runs f with the database, unless the store has ended.
func (s *Store) use(f func(*bbolt.DB) error) error {
	if why := s.halted.Load(); why != nil {
		return *why
	}
	s.stateMu.RLock()
	if errors.Is(s.ended, store.ErrFailed) {
		s.stateMu.RUnlock()
		// Who writes reads first, so that nobody might get as far as writing. While
		// somebody tries already, the others are told.
		if s.writeMu.TryLock() {
			s.retry()
			s.writeMu.Unlock()
		}
		s.stateMu.RLock()
	}
	defer s.stateMu.RUnlock()
	if s.ended != nil {
		return s.ended
	}
	return contained(func() error { return f(s.db) })
}

// contained turns a panic of bbolt, and a fault of its mapping (a page beyond
// the end of the file, a sector that can't be read), into store.ErrCorrupt.
func contained(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damage("%v", r)
		}
	}()
	return f()
}

// Close waits for transactions under way, then ends the store.
func (s *Store) Close() error {
	if why := s.halted.Load(); why != nil {
		if ended := fmt.Errorf("%w", store.ErrClosed); s.halted.CompareAndSwap(why, &ended) && !errors.Is(*why, store.ErrClosed) {
			return s.letGo()
		}
		return nil
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.stateMu.Lock()
	failed := s.ended
	s.ended = store.ErrClosed
	s.stateMu.Unlock()
	s.watches.closeAll()
	switch {
	case errors.Is(failed, store.ErrClosed), s.db == nil:
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}
