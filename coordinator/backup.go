package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/backup"
	"github.com/cameronraysmith/fleet/coordinator/internal/blob"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/coordinator/internal/store/bolt"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Names in the state directory.
const (
	storeFile   = "fleet.db"
	blobsDir    = "blobs"
	socketFile  = "backup.sock"
	snapshotTmp = ".snapshot-"
)

// backupStall is how long whoever takes a backup may take nothing.
const backupStall = time.Minute

// backups answers the local socket in the state directory, which is closed to
// others: whoever connects gets a backup.
type backups struct {
	dir   string
	store *bolt.Store
	blobs *blob.Store
	now   func() time.Time
	log   *slog.Logger
	l     net.Listener
	// closing closes the socket and removes it, once: whoever comes second waits
	// until it is gone, because a successor may make its own then.
	closing func() error
}

// socketPath is the path of the socket, short enough for the system.
func socketPath(dir string) (path string, done func(), err error) {
	const longest = 100
	path = filepath.Join(dir, socketFile)
	if len(path) <= longest {
		return path, func() {}, nil
	}
	d, err := os.Open(dir) //nolint:gosec // The operator names the directory.
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketFile), func() { _ = d.Close() }, nil
}

// listenBackups opens the socket. What a dead coordinator left of it is
// replaced: the store's lock says that there is no other one.
func listenBackups(ctx context.Context, dir string, s *bolt.Store, b *blob.Store, now func() time.Time, log *slog.Logger) (*backups, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the socket for backups: %w", err)
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening the socket for backups: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the socket for backups: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // Its path may not be good any more: closing does it.
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the socket for backups: %w", err), l.Close())
	}
	if err := removeSnapshots(dir); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &backups{dir: dir, store: s, blobs: b, now: now, log: log, l: l, closing: sync.OnceValue(func() error { return closeSocket(dir, l) })}, nil
}

// removeSnapshots removes what backups and restores that a crash ended left
// behind.
func removeSnapshots(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("removing old snapshots: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), snapshotTmp) || strings.HasPrefix(e.Name(), "."+snapshotTmp) || strings.HasPrefix(e.Name(), restoreTmp) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing old snapshots: %w", err)
			}
		}
	}
	return nil
}

func closeSocket(dir string, l net.Listener) error {
	err := l.Close()
	if rerr := os.Remove(filepath.Join(dir, socketFile)); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return fmt.Errorf("closing the socket for backups: %w", err)
	}
	return nil
}

// run answers, one at a time, until ctx ends.
func (b *backups) run(ctx context.Context) {
	var mu sync.Mutex // guards conn
	var conn net.Conn
	stop := context.AfterFunc(ctx, func() {
		_ = b.closing() // Close says what went wrong.
		mu.Lock()
		defer mu.Unlock()
		if conn != nil {
			_ = conn.Close()
		}
	})
	defer stop()
	for {
		c, err := b.l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				b.log.Error("no more backups until the coordinator starts again", "error", err)
			}
			return
		}
		mu.Lock()
		conn = c
		mu.Unlock()
		if ctx.Err() == nil {
			b.answer(ctx, c)
		}
		_ = c.Close()
	}
}

func (b *backups) answer(ctx context.Context, c net.Conn) {
	began := b.now()
	w := &patient{c: c, started: false}
	err := roomless(writeBackup(ctx, b.dir, b.store, b.blobs, b.now(), w), b.dir)
	if err != nil && !w.started {
		err = errors.Join(err, backup.WriteError(w, err))
	}
	if err != nil {
		b.log.Error("a backup was not made", "error", err)
		return
	}
	b.log.Info("a backup was made", "took", b.now().Sub(began))
}

// patient writes as long as somebody reads.
type patient struct {
	c       net.Conn
	started bool
}

// Write writes within backupStall.
func (p *patient) Write(b []byte) (int, error) {
	p.started = true
	if err := p.c.SetWriteDeadline(time.Now().Add(backupStall)); err != nil { //nolint:forbidigo // The runtime's own clock.
		return 0, err
	}
	return p.c.Write(b)
}

// writeBackup copies the store as it is now, checks the copy as a restore
// would, and writes it. The copy is made first, at the speed of the disk, so
// that whoever reads slowly holds up nobody.
func writeBackup(ctx context.Context, dir string, s *bolt.Store, blobs *blob.Store, made time.Time, w io.Writer) (err error) {
	path := filepath.Join(dir, snapshotTmp+rand.Text())
	defer func() {
		if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	if err := s.Snapshot(ctx, path); err != nil {
		return err
	}
	m := backup.Manifest{Made: made.UTC(), Version: buildinfo.Version()}
	if m.Fleet, m.EventSeq, m.EventHash, err = inspect(ctx, path, nil); err != nil {
		return err
	}
	var list strings.Builder
	m.Blobs, m.BlobBytes, err = blobs.List(func(d fleet.Digest, size uint64) {
		fmt.Fprintf(&list, "%s %d\n", d, size)
	})
	if err != nil {
		return err
	}
	m.ListBytes = uint64(list.Len()) //nolint:gosec // Not negative.
	f, err := os.Open(path)          //nolint:gosec // Made here.
	if err != nil {
		return fmt.Errorf("reading the snapshot: %w", err)
	}
	defer func() { _ = f.Close() }() // It was only read.
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the snapshot: %w", err)
	}
	m.StoreBytes = uint64(fi.Size()) //nolint:gosec // Not negative.
	return backup.Write(w, m, strings.NewReader(list.String()), f)
}

// inspect opens a store that nobody uses, checks every byte and the chain of
// its events, and lets change alter it.
func inspect(ctx context.Context, path string, change func(*bolt.Store) error) (f fleet.FleetID, seq uint64, hash string, err error) {
	s, err := bolt.Open(path)
	if err != nil {
		return "", 0, "", err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if n := s.Notice(); n != "" {
		return "", 0, "", fmt.Errorf("%w: %s", store.ErrCorrupt, n)
	}
	kv, err := s.Get(ctx, fleetKey)
	if err != nil {
		return "", 0, "", fmt.Errorf("reading whose store it is: %w", err)
	}
	log, err := audit.Open(ctx, s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", 0, "", err
	}
	if err := log.Verify(ctx); err != nil {
		return "", 0, "", err
	}
	head, err := log.Head(ctx)
	if err == nil && change != nil {
		err = change(s)
	}
	return fleet.FleetID(kv.Value), head.Seq, head.Hash, err
}

// Backup writes a backup of the coordinator in dir, which may run, to w.
// Errors: those of package backup, of the store, of w.
func Backup(ctx context.Context, dir string, now time.Time, w io.Writer) error {
	path, done, err := socketPath(dir)
	if err != nil {
		return fmt.Errorf("making a backup: %w", err)
	}
	defer done()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return backupStopped(ctx, dir, now, w)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }() // It was only read.
	// Read here too, so that what is written was whole.
	if _, err := backup.Read(io.TeeReader(conn, w), io.Discard, io.Discard); err != nil {
		return fmt.Errorf("making a backup: %w", errors.Join(ctx.Err(), err))
	}
	return nil
}

// backupStopped is Backup where no coordinator runs.
func backupStopped(ctx context.Context, dir string, now time.Time, w io.Writer) (err error) {
	path := filepath.Join(dir, storeFile)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("making a backup: %w: name the directory of the coordinator with --state-dir", err)
	}
	s, err := bolt.Open(path)
	if err != nil {
		return fmt.Errorf("making a backup: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	b, err := blob.Open(filepath.Join(dir, blobsDir), blob.Options{})
	if err != nil {
		return fmt.Errorf("making a backup: %w", err)
	}
	if err := writeBackup(ctx, dir, s, b, now, w); err != nil {
		return fmt.Errorf("making a backup: %w", roomless(err, dir))
	}
	return nil
}

// BackupFile is Backup to a file, which is replaced when the backup is whole
// and durable.
func BackupFile(ctx context.Context, dir string, now time.Time, file string) error {
	err := atomicfile.Write(file, 0o600, func(w io.Writer) error { return Backup(ctx, dir, now, w) })
	return roomless(err, filepath.Dir(file))
}
