package nixdriver

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// grubWrites says why GRUB can't write to its environment in a directory, and so could not
// take back what is to be booted once; empty where it can. It writes to blocks of a file, of
// a partition that is one (GRUB manual, "The GRUB environment block").
func grubWrites(dir string) (why string, err error) {
	var fsys unix.Statfs_t
	var file unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &fsys), unix.Stat(dir, &file)); err != nil {
		return "", fmt.Errorf("looking at %s: %w", dir, err)
	}
	switch fsys.Type {
	case unix.EXT4_SUPER_MAGIC, unix.MSDOS_SUPER_MAGIC:
	default:
		return fmt.Sprintf("GRUB can't take back what it is to boot once where %s is: neither ext4 nor FAT", dir), nil
	}
	number := fmt.Sprintf("%d:%d", unix.Major(uint64(file.Dev)), unix.Minor(uint64(file.Dev))) //nolint:unconvert // It differs by system.
	device, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", number))
	if err != nil {
		return fmt.Sprintf("GRUB might not take back what it is to boot once: nothing tells on what device %s is", dir), nil //nolint:nilerr // That says so.
	}
	if part := assembled(device); part != "" {
		return fmt.Sprintf("GRUB can't take back what it is to boot once where %s is: %s is of LVM, of RAID or encrypted", dir, part), nil
	}
	return "", nil
}

// assembled is the part of a device's path in sysfs that is made of other devices; empty for
// none.
func assembled(device string) string {
	for part := range strings.SplitSeq(device, "/") {
		for _, kind := range []string{"dm-", "md", "bcache", "zd"} {
			if rest, ok := strings.CutPrefix(part, kind); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				return part
			}
		}
	}
	return ""
}
