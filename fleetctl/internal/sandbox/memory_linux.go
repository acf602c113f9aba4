package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// memory makes a directory in a file system that is in memory, and removes those that runs
// which were killed left there.
func memory(context.Context) (string, func() error, error) {
	var errs []error
	for _, base := range []string{"/dev/shm", os.Getenv("XDG_RUNTIME_DIR")} {
		if base == "" {
			continue
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(base, &fs); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", base, err))
			continue
		}
		if fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
			errs = append(errs, fmt.Errorf("%s is no tmpfs", base))
			continue
		}
		return memoryIn(base)
	}
	return "", nil, errors.Join(append(errs, errors.New("no file system in memory can be written to"))...)
}

func memoryIn(base string) (string, func() error, error) {
	prefix := fmt.Sprintf("fleetctl-%d-", os.Getuid())
	left, err := filepath.Glob(filepath.Join(base, prefix+"*"))
	if err != nil {
		return "", nil, err //nolint:wrapcheck // It cannot be: the pattern is a constant's.
	}
	for _, dir := range left {
		if lock := hold(dir); lock != nil {
			_ = errors.Join(os.RemoveAll(dir), lock.Close()) //nolint:gosec // It is one's own; the next run tries once more.
		}
	}
	const tries = 10
	for range tries {
		dir, err := os.MkdirTemp(base, prefix)
		if err != nil {
			return "", nil, err //nolint:wrapcheck // os errors name the path.
		}
		// Somebody who clears away may have been faster.
		if lock := hold(dir); lock != nil {
			return dir, func() error { return errors.Join(os.RemoveAll(dir), lock.Close()) }, nil //nolint:gosec // It was made here.
		}
	}
	return "", nil, fmt.Errorf("somebody removes what is made in %s", base)
}

// hold locks a directory of one's own that nobody uses; nil where somebody does.
func hold(dir string) *os.File {
	f, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) //nolint:gosec // The user's own directories are listed.
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && unix.Fstat(int(f.Fd()), &st) == nil && int(st.Uid) == os.Getuid() && st.Nlink > 0 {
		return f
	}
	_ = f.Close()
	return nil
}
