package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// inMemory says whether dir is where a file system in memory was mounted.
func inMemory(dir string) bool {
	var at, above unix.Stat_t
	var kind unix.Statfs_t
	if unix.Stat(dir, &at) != nil || unix.Stat(filepath.Dir(dir), &above) != nil || unix.Statfs(dir, &kind) != nil {
		return false
	}
	return at.Dev != above.Dev && (kind.Type == unix.TMPFS_MAGIC || kind.Type == unix.RAMFS_MAGIC)
}

// mountMemory has fill make what a file system in memory holds while nobody can see it,
// and puts it in place of dir, whose content it removes from the disk. It is ErrNoMemory
// where that can't be; then, and where fill fails, dir is as it was.
func mountMemory(dir string, fill func(at string) error) (err error) {
	if err := makeDir(dir); err != nil {
		return err
	}
	m, err := newMemory()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoMemory, err)
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := fill(throughFD(m)); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.SecretsInMemory)
	if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("%w: mounting at %s: %w", ErrNoMemory, dir, err)
	}
	crashpoint.Hit(crashpoint.SecretsMounted)
	return clearBeneath(dir)
}

// newMemory makes a file system that is mounted nowhere: one with a bound where it can be
// told not to swap, else one that never does.
func newMemory() (*os.File, error) {
	m, err := newMount("tmpfs", map[string]string{"noswap": "", "size": fmt.Sprint(memoryBytes), "mode": fmt.Sprintf("%#o", dirMode)})
	if err != nil {
		m, err = newMount("ramfs", map[string]string{"mode": fmt.Sprintf("%#o", dirMode)})
	}
	return m, err
}

func newMount(kind string, options map[string]string) (*os.File, error) {
	fd, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", kind, err)
	}
	defer func() { _ = unix.Close(fd) }()
	for name, value := range options {
		if value == "" {
			err = unix.FsconfigSetFlag(fd, name)
		} else {
			err = unix.FsconfigSetString(fd, name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: option %s: %w", kind, name, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("making %s: %w", kind, err)
	}
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", kind, err)
	}
	return os.NewFile(uintptr(m), kind), nil
}

// clearBeneath removes what is on the disk where dir was mounted: what was there before,
// or before a crash.
func clearBeneath(dir string) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(dir), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("looking beneath %s: %w", dir, err)
	}
	above := os.NewFile(uintptr(fd), filepath.Dir(dir))
	defer func() { _ = above.Close() }()
	beneath, err := os.OpenRoot(filepath.Join(throughFD(above), filepath.Base(dir)))
	if err != nil {
		return fmt.Errorf("looking beneath %s: %w", dir, err)
	}
	defer func() { _ = beneath.Close() }()
	entries, err := fs.ReadDir(beneath.FS(), ".")
	for _, e := range entries {
		err = errors.Join(err, beneath.RemoveAll(e.Name()))
	}
	if err != nil {
		return fmt.Errorf("clearing the disk beneath %s: %w", dir, err)
	}
	return nil
}

// Unmount takes the memory of a link at root away, with what is in it; nothing where
// there is none.
func Unmount(root string) error {
	dir := root + ".d"
	if !inMemory(dir) {
		return nil
	}
	// What has a file open keeps that file.
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}

func throughFD(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
