package atomicfile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SyncFS makes everything that was written to the file systems of paths
// durable, whoever wrote it; what several paths share is synced once. It waits
// for the disk, which may take long.
func SyncFS(paths ...string) error {
	synced := map[uint64]bool{}
	for _, path := range paths {
		if err := syncFS(path, synced); err != nil {
			return fmt.Errorf("syncing file system of %s: %w", path, err)
		}
	}
	return nil
}

func syncFS(path string, synced map[uint64]bool) (err error) {
	f, err := os.Open(path) //nolint:gosec // It is only opened, never read.
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // A descriptor is small.
		return err
	}
	if synced[st.Dev] {
		return nil
	}
	synced[st.Dev] = true
	return unix.Syncfs(int(f.Fd())) //nolint:gosec // A descriptor is small.
}
