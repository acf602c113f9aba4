package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// ramSectors is the size of a RAM disk in sectors of 512 bytes: 128 MiB.
const ramSectors = 1 << 18

var device = regexp.MustCompile(`^/dev/disk[0-9]{1,4}$`)

// ramDisk makes a disk of memory on macOS, with a file system that only this user reads,
// shown to nobody. What a run that was killed left stays until it is ejected, or the Mac
// starts anew.
func ramDisk(ctx context.Context, run func(ctx context.Context, program string, args ...string) (string, error)) (string, func() error, error) {
	disk, err := run(ctx, "/usr/bin/hdiutil", "attach", "-nomount", fmt.Sprintf("ram://%d", ramSectors))
	if err == nil && !device.MatchString(disk) {
		err = errors.New("hdiutil named no disk")
	}
	if err != nil {
		return "", nil, fmt.Errorf("making a RAM disk: %w", err)
	}
	at, err := os.MkdirTemp("", "fleetctl-")
	if err == nil {
		at, err = filepath.EvalSymlinks(at) // Profiles of sandboxes want real paths.
	}
	free := func() error {
		ctx := context.WithoutCancel(ctx)
		_, err := run(ctx, "/usr/bin/hdiutil", "detach", "-force", disk)
		if err != nil {
			return fmt.Errorf("ejecting a RAM disk, which has values on it: %w", err)
		}
		return os.Remove(at) //nolint:wrapcheck // os errors name the path.
	}
	if err == nil {
		_, err = run(ctx, "/sbin/newfs_hfs", "-v", "fleetctl", disk)
	}
	if err == nil {
		_, err = run(ctx, "/usr/sbin/diskutil", "mount", "nobrowse", "-mountPoint", at, disk)
	}
	if err == nil {
		err = os.Chmod(at, 0o700)
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("making a RAM disk: %w", err), free())
	}
	return at, free, nil
}
