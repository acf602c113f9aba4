//go:build linux

// Package powercut does to a mounted ext4 what a power cut does to its disk.
package powercut

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// ext4Shutdown is EXT4_IOC_SHUTDOWN of Linux's include/uapi/linux/ext4.h,
	// which is FS_IOC_SHUTDOWN: _IOR('X', 125, __u32).
	ext4Shutdown = 0x8004587d
	// noLogFlush is EXT4_GOING_FLAGS_NOLOGFLUSH: the journal's last transaction
	// is not written either.
	noLogFlush = 0x2
)

// Cut makes all reads and writes of the ext4 that is mounted at point fail from
// here on; what had not reached the disk never does. It needs root.
func Cut(point string) error {
	f, err := os.Open(point)
	if err != nil {
		return fmt.Errorf("cutting the disk's power: %w", err)
	}
	defer func() { _ = f.Close() }()
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return fmt.Errorf("cutting the disk's power: %w", errno)
	}
	return nil
}
