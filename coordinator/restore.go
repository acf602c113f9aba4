package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/backup"
	"github.com/cameronraysmith/fleet/coordinator/internal/enrol"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/bolt"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ErrNotEmpty says that the directory to restore into holds something.
var ErrNotEmpty = errors.New("state directory is not empty")

// KindRestored is the event of the first start after a restore.
const KindRestored audit.Kind = "coordinator-restored"

// restoredKey marks a restored store until its first start.
const restoredKey = "meta/restored"

const restoreTmp = ".restoring-"

// Restored says what Restore brought back.
type Restored struct {
	Fleet     fleet.FleetID `json:"fleet"`
	Made      time.Time     `json:"made"`
	Events    uint64        `json:"events"`
	Blobs     uint64        `json:"blobs"`
	BlobBytes uint64        `json:"blob_bytes"`
}

// Restore puts the store of a backup into a state directory that has none; a
// directory of blobs may be there. Every byte and the chain of events are
// checked first, and the store appears whole or not at all. Enrolment tokens
// that the backup holds as unused are forgotten: they may have been used since. Where root
// restores, the store is given to the directory's owner, as which the coordinator runs.
// Errors: ErrNotEmpty, those of package backup, store.ErrCorrupt,
// audit.ErrTampered, of the file system.
func Restore(ctx context.Context, dir string, r io.Reader) (Restored, error) {
	m, err := restore(ctx, dir, r)
	if err != nil {
		return Restored{}, roomless(fmt.Errorf("restoring into %s: %w", dir, err), dir)
	}
	return Restored{Fleet: m.Fleet, Made: m.Made, Events: m.EventSeq, Blobs: m.Blobs, BlobBytes: m.BlobBytes}, nil
}

func restore(ctx context.Context, dir string, r io.Reader) (m backup.Manifest, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, err
	}
	if err := checkEmpty(dir); err != nil {
		return m, err
	}
	f, err := os.CreateTemp(dir, restoreTmp)
	if err != nil {
		return m, err
	}
	tmp := f.Name()
	defer func() { err = errors.Join(err, os.Remove(tmp)) }()
	m, err = backup.Read(r, io.Discard, f)
	if err := errors.Join(err, giveToOwnerOf(dir, f), f.Sync(), f.Close()); err != nil {
		return m, err
	}
	mark, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	whose, seq, hash, err := inspect(ctx, tmp, func(s *bolt.Store) error {
		if err := enrol.ForgetUnused(ctx, s); err != nil {
			return err
		}
		_, err := s.Txn(ctx, nil, []store.Op{{Key: restoredKey, Value: mark}})
		return err
	})
	if err != nil {
		return m, err
	}
	if whose != m.Fleet || seq != m.EventSeq || hash != m.EventHash {
		return m, fmt.Errorf("%w: its store ends at event %d of %q, its manifest at %d of %q", backup.ErrDamaged, seq, whose, m.EventSeq, m.Fleet)
	}
	crashpoint.Hit(crashpoint.RestorePlace)
	// Linking, unlike renaming, never replaces a store.
	if err := os.Link(tmp, filepath.Join(dir, storeFile)); err != nil {
		return m, fmt.Errorf("putting the store in place: %w", err)
	}
	crashpoint.Hit(crashpoint.RestorePlaced)
	return m, atomicfile.SyncDir(dir)
}

// giveToOwnerOf has a file that root made belong to who owns the directory: the service
// manager gives an installed coordinator its whole state, but only where the directory is
// somebody else's.
func giveToOwnerOf(dir string, f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("finding the owner of %s: the system does not say", dir)
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// checkEmpty lets pass what an interrupted restore left, which it removes, and
// blobs: each is named by its digest.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), restoreTmp):
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		case e.Name() == blobsDir && e.IsDir():
		default:
			return fmt.Errorf("%w: %s is there: stop the coordinator and move it away, or name another directory", ErrNotEmpty, e.Name())
		}
	}
	return nil
}

// restored returns the events of a first start after a restore, and the
// operations that let it be the only one.
func restored(ctx context.Context, s store.Store, actor string) (ops []store.Op, entries []audit.Entry, err error) {
	kv, err := s.Get(ctx, restoredKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var m backup.Manifest
	if err := json.Unmarshal(kv.Value, &m); err != nil {
		return nil, nil, fmt.Errorf("reading what was restored: %w", err)
	}
	return []store.Op{{Key: restoredKey, Delete: true}}, []audit.Entry{{
		Actor: actor, Kind: KindRestored, Alarm: true,
		Message: fmt.Sprintf("from a backup of %s, up to event %d: what came later is not here; hosts hand over the generations that they accepted, and publishing again brings the rest back",
			m.Made.UTC().Format(time.RFC3339), m.EventSeq),
	}}, nil
}
