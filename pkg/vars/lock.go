package vars

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often a lock that somebody has is tried.
const lockPoll = 50 * time.Millisecond

type treeLock struct{ f *os.File }

// takeLock takes the lock of a tree, waiting while ctx lives.
func takeLock(ctx context.Context, dir string) (*treeLock, error) {
	state := filepath.Join(dir, stateDir)
	if err := makeState(dir, state); err != nil {
		return nil, fmt.Errorf("writing to the tree in %s: %w; it must be a directory that you may write to", dir, err)
	}
	f, err := os.OpenFile(filepath.Join(state, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("writing to the tree in %s: %w", dir, err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			l := &treeLock{f}
			return l, l.sign()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", f.Name(), err), f.Close())
		}
		select {
		case <-ctx.Done():
			holder, _ := io.ReadAll(io.LimitReader(f, 32))
			return nil, errors.Join(fmt.Errorf("%w: process %s has the lock of %s; wait until it ends", ErrLocked, strings.TrimSpace(string(holder)), dir), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

// makeState makes the directory for changes, which git ignores.
func makeState(dir, state string) error {
	if fi, err := os.Stat(dir); err != nil {
		return err //nolint:wrapcheck // The caller says where.
	} else if !fi.IsDir() {
		return errors.New("it is no directory")
	}
	if err := os.Mkdir(state, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err //nolint:wrapcheck // As above.
	}
	if fi, err := os.Lstat(state); err != nil {
		return err //nolint:wrapcheck // As above.
	} else if !fi.IsDir() {
		return fmt.Errorf("%s is no directory: move it away", state)
	}
	ignore := filepath.Join(state, ".gitignore")
	if regular(ignore) {
		return nil
	}
	return os.WriteFile(ignore, []byte("*\n"), 0o644) //nolint:wrapcheck // As above.
}

// sign says in the lock who has it, for whom it keeps waiting.
func (l *treeLock) sign() error {
	err := l.f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(io.NewOffsetWriter(l.f, 0), "%d\n", os.Getpid())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("locking: %w", err), l.f.Close())
	}
	return nil
}

func (l *treeLock) give() error {
	if err := l.f.Close(); err != nil { // That unlocks it.
		return fmt.Errorf("unlocking: %w", err)
	}
	return nil
}
