package atomicdir

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const canSyncAll = true

// syncAll makes the whole file system of dir durable.
func syncAll(dir string) error {
	f, err := os.Open(dir) //nolint:gosec // The caller names its own directory.
	if err != nil {
		return fmt.Errorf("syncing file system: %w", err)
	}
	err = unix.Syncfs(int(f.Fd())) //nolint:gosec // A file descriptor fits.
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("syncing file system of %s: %w", dir, err)
	}
	return nil
}

func exchange(tmp, dst string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dst, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return exchangeByTwo(tmp, dst)
	}
	return err
}
