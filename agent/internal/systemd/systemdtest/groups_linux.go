package systemdtest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Groups is a directory with the kernel's control groups of version 2, mounted for the
// test where the machine has others; empty where this process may not have them.
func Groups(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return ""
	}
	dir := "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return dir
	}
	dir = t.TempDir()
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		t.Logf("control groups can't be had here: %v", err)
		return ""
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
