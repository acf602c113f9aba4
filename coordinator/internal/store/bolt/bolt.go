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
// revision): the two fsyncs are paid once for all of them.
//
// The file has a bucket "meta" (version, revision) and a bucket "data", where
// each value is preceded by its revision, 8 bytes, big endian.
package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// Format is the version of the file's format that this program writes, and
// the newest that it reads.
const Format = 1

// lockWait is how long Open waits for another process to let go of the file:
// enough for a predecessor that is just ending.
const lockWait = 2 * time.Second

var (
	bucketMeta  = []byte("meta")
	bucketData  = []byte("data")
	keyVersion  = []byte("version")
	keyRevision = []byte("revision")
)

const revisionLen = 8

// Store is a store.Store in one file.
type Store struct {
	db   *bbolt.DB
	path string

	queueMu sync.Mutex // guards queue
	queue   []*request

	writeMu sync.Mutex // held while a batch is written and its events are sent

	stateMu sync.RWMutex // guards ended; held for reading during every use of db
	ended   error        // why nothing is answered any more

	watches watches
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
	if err := checkWhole(path, o.Timeout); err != nil {
		return nil, err
	}
	o.NoFreelistSync = true
	o.FreelistType = bbolt.FreelistMapType
	db, err := bbolt.Open(path, 0o600, &o)
	if err != nil {
		return nil, explain(err)
	}
	s := &Store{db: db, path: path}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// checkWhole refuses a file that is shorter than its own meta page says. bbolt
// maps the file into memory: a page beyond its end would kill the process
// instead of giving an error. A read-only open looks at nothing but the metas.
func checkWhole(path string, wait time.Duration) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%w: it is no regular file", store.ErrCorrupt)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait, ReadOnly: true})
	if err != nil {
		return explain(err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		// Another process may have let it grow between the two looks.
		if fi, err = os.Stat(path); err != nil {
			return err
		}
		if tx.Size() > fi.Size() {
			return fmt.Errorf("%w: %d bytes long instead of %d: %s", store.ErrCorrupt, fi.Size(), tx.Size(), hintCorrupt)
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// prepare checks the format and makes what a new file needs.
func (s *Store) prepare() error {
	made := false
	var version []byte
	err := s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketMeta); b != nil {
			version = append(version, b.Get(keyVersion)...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if version == nil {
		made = true
		err := s.db.Update(func(tx *bbolt.Tx) error {
			meta, err := tx.CreateBucketIfNotExists(bucketMeta)
			if err != nil {
				return err
			}
			if _, err := tx.CreateBucketIfNotExists(bucketData); err != nil {
				return err
			}
			return meta.Put(keyVersion, []byte(strconv.Itoa(Format)))
		})
		if err != nil {
			return fmt.Errorf("making it: %w", err)
		}
	} else {
		n, err := strconv.Atoi(string(version))
		switch {
		case err != nil:
			return fmt.Errorf("%w: format version is %q: %s", store.ErrCorrupt, version, hintCorrupt)
		case n > Format:
			return fmt.Errorf("%w: its format is %d, this program knows %d: run the newer program, or move the file away (hosts and publishers refill an empty store)",
				store.ErrNewerFormat, n, Format)
		}
	}
	if made {
		crashpoint.Hit(crashpoint.StoreMade)
		return atomicfile.SyncDir(filepath.Dir(s.path))
	}
	return nil
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
	s.stateMu.RLock()
	defer s.stateMu.RUnlock()
	if s.ended != nil {
		return s.ended
	}
	return f(s.db)
}

// end makes every later call return err; the first reason stays.
func (s *Store) end(err error) (first bool) {
	s.stateMu.Lock()
	defer s.stateMu.Unlock()
	if s.ended != nil {
		return false
	}
	s.ended = err
	return true
}

// Close waits for transactions under way, then ends the store.
func (s *Store) Close() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.stateMu.Lock()
	failed := s.ended
	s.ended = store.ErrClosed
	s.stateMu.Unlock()
	s.watches.closeAll()
	if errors.Is(failed, store.ErrClosed) {
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}

func encode(revision uint64, value []byte) []byte {
	b := make([]byte, revisionLen, revisionLen+len(value))
	binary.BigEndian.PutUint64(b, revision)
	return append(b, value...)
}

// decode copies: what bbolt hands out is valid only during its transaction.
func decode(key string, raw []byte) (store.KV, error) {
	if len(raw) < revisionLen {
		return store.KV{}, fmt.Errorf("reading key %q: %w: %s", key, store.ErrCorrupt, hintCorrupt)
	}
	return store.KV{
		Key:      key,
		Value:    append([]byte{}, raw[revisionLen:]...),
		Revision: binary.BigEndian.Uint64(raw),
	}, nil
}
