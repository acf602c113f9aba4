package execute

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockState is what is known of a run's lock.
type lockState int

const (
	lockMissing lockState = iota
	lockFree
	lockHeld
)

// flock tries once, without waiting; held says that somebody else has it.
func flock(f *os.File, how int) (held bool, err error) {
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return true, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
}

// probeLock looks whether a runner lives. It holds the lock, shared, for a
// moment: takeLock is patient for that reason.
func probeLock(path string) (lockState, error) {
	f, err := os.Open(path) //nolint:gosec // Below the agent's own state directory.
	if errors.Is(err, os.ErrNotExist) {
		return lockMissing, nil
	}
	if err != nil {
		return lockMissing, fmt.Errorf("looking at lock: %w", err)
	}
	defer giveLock(f)
	held, err := flock(f, unix.LOCK_SH)
	switch {
	case err != nil:
		return lockMissing, err
	case held:
		return lockHeld, nil
	}
	return lockFree, nil
}

// takeLock takes the lock exclusively, trying for as long as a probe by
// somebody else may last.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return nil, fmt.Errorf("taking lock: %w", err)
	}
	for range 50 {
		held, err := flock(f, unix.LOCK_EX)
		if err == nil && !held {
			return f, nil
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = f.Close()
	return nil, fmt.Errorf("%w: %s is locked by its runner", ErrExists, path)
}

// giveLock unlocks before it closes: a process that is just being started has a
// copy of the descriptor for a moment, which would keep the lock.
func giveLock(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	_ = f.Close()
}

// inheritedLock is the lock that the executor handed over as descriptor fd, or
// nil where that descriptor is something else.
func inheritedLock(path string, fd int) *os.File {
	if !isFile(fd, path) {
		return nil
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), path) //nolint:gosec // Not negative.
}

// isFile says whether a descriptor is of the file at path.
func isFile(fd int, path string) bool {
	var have, want unix.Stat_t
	return unix.Fstat(fd, &have) == nil && unix.Stat(path, &want) == nil &&
		have.Dev == want.Dev && have.Ino == want.Ino
}
