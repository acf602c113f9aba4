package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Errors of opening and writing.
var (
	// ErrLocked: another agent runs on the same state directory.
	ErrLocked = errors.New("another agent uses the state directory")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("journal is closed")
	// ErrBroken: an earlier write failed in a way that leaves unknown what is on
	// the disk. Open the journal again.
	ErrBroken = errors.New("journal can't be written any more")
	// ErrTooLarge: a batch doesn't fit a line.
	ErrTooLarge = errors.New("records too large for the journal")
)

// Options of Open.
type Options struct {
	// Now gives the wall time of records; default time.Now.
	Now func() time.Time
	// Log; default none.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // The default of the injected one.
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// file is what the journal needs of the disk; tests make it fail.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Stat() (os.FileInfo, error)
	Close() error
}

// Journal writes and remembers. Safe for concurrent use.
type Journal struct {
	dir  string
	now  func() time.Time
	log  *slog.Logger
	lock *os.File

	mu        sync.Mutex // held for writes too: one at a time
	file      file
	size      int64
	compactAt int64
	state     *State
	broken    error
}

// Open takes the lock of the state directory dir, makes it where it is missing,
// drops what an interrupted write left at the end, and folds the journal.
// Errors: ErrLocked, ErrNewerState, ErrCorrupt, or of the file system.
func Open(dir string, o Options) (*Journal, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explain(dir, err)
	}
	if err := checkVersion(dir); err != nil {
		return nil, err
	}
	lock, err := takeLock(filepath.Join(dir, fileLock))
	if err != nil {
		return nil, explain(dir, err)
	}
	j := &Journal{dir: dir, now: o.Now, log: o.Log, lock: lock}
	if err := j.load(); err != nil {
		_ = giveLock(lock)
		return nil, explain(dir, err)
	}
	return j, nil
}

// Lock takes the lock of the state directory dir, which its agent holds while it runs,
// for who reads the journal and has no agent beside. It is ErrLocked where one runs.
func Lock(dir string) (unlock func() error, err error) {
	f, err := takeLock(filepath.Join(dir, fileLock))
	if err != nil {
		return nil, explain(dir, err)
	}
	return func() error { return giveLock(f) }, nil
}

// explain adds what to do to errors of a state directory that can't be written.
func explain(dir string, err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		return fmt.Errorf("state directory %s can't be written: mount it read-write, give it to the agent's user, "+
			"or name another: %w", dir, err)
	}
	return fmt.Errorf("opening state directory %s: %w", dir, err)
}

const (
	// lockWait is how long a lock that somebody has is waited for. An agent that was
	// killed while it started a program left it a copy of the lock's descriptor
	// until its exec, which may last on a busy machine.
	lockWait = 2 * time.Second
	// lockPause is between two attempts.
	lockPause = 10 * time.Millisecond
)

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // Below the caller's own state directory.
	if err != nil {
		return nil, err
	}
	for range lockWait / lockPause {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(lockPause)
	}
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: stop it first, or give this one a directory of its own", ErrLocked)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

// giveLock unlocks before it closes: a process that is just being started has a
// copy of the descriptor for a moment, which would keep the lock.
func giveLock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

func (j *Journal) path() string { return filepath.Join(j.dir, fileJournal) }

func (j *Journal) load() error {
	if err := writeVersion(j.dir); err != nil {
		return err
	}
	f, err := os.OpenFile(j.path(), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	got, err := scan(f, j.path())
	if err == nil && got.torn > 0 {
		j.log.Warn("journal ended in an interrupted write that was never acknowledged; it is cut off",
			"file", j.path(), "offset", got.good, "bytes", got.torn)
		err = f.Truncate(got.good)
	}
	if err == nil {
		err = f.Sync()
	}
	crashpoint.Hit(crashpoint.JournalMade)
	if err == nil {
		err = atomicfile.SyncDir(j.dir)
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	j.file, j.size, j.state = f, got.good, got.state
	j.compactAt = compactMin
	j.maybeCompact()
	crashpoint.Hit(crashpoint.JournalOpened)
	return nil
}

// Append writes records as one batch: when it returns nil all are on the disk,
// when it returns an error none counts. It sets Seq, Time and Transition.
// Errors about records that don't fit (ErrRecord, ErrInFlight, ErrRefused,
// ErrNumber, ErrUsed) and ErrTooLarge leave the journal usable; of others, the
// caller MUST NOT have the announced effect, and may try again until ErrBroken.
func (j *Journal) Append(recs ...Record) error {
	if len(recs) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	next, line, err := j.prepare(recs)
	if err != nil {
		return err
	}
	kind := string(recs[0].Kind)
	crashpoint.HitFor(crashpoint.JournalAppend, kind)
	if err := j.write(line, kind); err != nil {
		return err
	}
	crashpoint.HitFor(crashpoint.JournalAppended, kind)
	j.size += int64(len(line))
	j.state = next
	j.maybeCompact()
	return nil
}

func (j *Journal) usable() error {
	if j.file == nil {
		return ErrClosed
	}
	if j.broken != nil {
		return fmt.Errorf("%w: %w: check the disk and restart the agent", ErrBroken, j.broken)
	}
	return nil
}

// prepare numbers the batch and folds it into a draft. What is folded is what a
// reader of the line will see.
func (j *Journal) prepare(recs []Record) (*State, []byte, error) {
	now := j.now().UTC().Round(0)
	seq, transitions := j.state.Seq, j.state.Transitions
	batch := make([]Record, len(recs))
	for i, r := range recs {
		if r.Kind == KindSnapshot || r.Kind == KindPending {
			return nil, nil, fmt.Errorf("%w: %s is only written by compaction", ErrRecord, r.Kind)
		}
		seq++
		r.Seq, r.Time, r.Transition = seq, now, 0
		if _, is := r.Kind.transition(); is {
			transitions++
			r.Transition = transitions
		}
		r.Reason, r.Degraded = bounded(r.Reason), cut(r.Degraded, maxMessageBytes)
		batch[i] = r
	}
	line, err := encode(batch)
	if err != nil {
		return nil, nil, err
	}
	if len(line) > maxAppendBytes {
		return nil, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(line), maxAppendBytes)
	}
	if batch, err = decode(line[:len(line)-1]); err != nil {
		return nil, nil, err
	}
	next := j.state.draft()
	for i := range batch {
		if err := apply(next, &batch[i]); err != nil {
			return nil, nil, fmt.Errorf("recording %s: %w", batch[i].Kind, err)
		}
	}
	return next, line, nil
}

// write appends a line durably. After a short write the file is cut back; where
// that fails, or a flush does (the kernel may then have dropped the pages), the
// journal refuses all further writes. kind is the first record's.
func (j *Journal) write(line []byte, kind string) error {
	_, err := j.file.Write(line)
	if err != nil {
		err = fmt.Errorf("writing journal: %w", err)
		if terr := j.file.Truncate(j.size); terr != nil {
			j.broken = errors.Join(err, terr)
		}
		return err
	}
	crashpoint.HitFor(crashpoint.JournalWritten, kind)
	if err := j.file.Sync(); err != nil {
		err = fmt.Errorf("flushing journal: %w", err)
		j.broken = errors.Join(err, j.file.Truncate(j.size))
		return err
	}
	return nil
}

// State is a copy of the present state.
func (j *Journal) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return *j.state.clone()
}

// Pending returns the oldest transitions that aren't acknowledged, at most
// limit, without copying the rest of the state.
func (j *Journal) Pending(limit int) []fleet.Transition {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.Pending(limit)
}

// Close gives the lock back. Further calls of Append are ErrClosed.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Close(), giveLock(j.lock))
	j.file = nil
	return err
}
