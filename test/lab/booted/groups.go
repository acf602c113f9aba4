//go:build linux

package booted

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// groups is where control groups of version 2 are on this machine: alone, or beside those
// of version 1.
func groups() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var on unix.Statfs_t
		if unix.Statfs(dir, &on) == nil && on.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%w: it has no control groups of version 2", ErrNotHere)
}

// group makes a control group of the host's own, without which the systemds of all hosts
// would share theirs, and opens it.
func (h *Host) group() (*os.File, error) {
	top, err := groups()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(top, prefix+h.Name)
	removeGroups(dir) // Of the boot before, which may have been killed.
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making a control group: %w", err)
	}
	return os.Open(dir)
}

// removeGroups removes control groups that nothing is in any more.
func removeGroups(dir string) {
	entries, _ := os.ReadDir(dir) // It may not be there.
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir) // What is still in use stays.
}

// removeAllGroups removes those of all hosts.
func removeAllGroups() {
	top, err := groups()
	if err != nil {
		return
	}
	dirs, _ := filepath.Glob(filepath.Join(top, prefix+"*")) // Fails for a bad pattern only.
	for _, dir := range dirs {
		removeGroups(dir)
	}
}
