package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// noRoom are the errors of a disk, or a quota, without room.
var noRoom = []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EFBIG}

// fullDisk explains an error that comes of a disk without room; is says
// whether err does. The error names the file.
func (a *Agent) fullDisk(err error) (why fleet.Reason, is bool) {
	switch {
	case errors.Is(err, ErrNoRoom):
		why.Message = err.Error() // It names directory and bytes.
	case err != nil && slices.ContainsFunc(noRoom, func(e unix.Errno) bool {
		// Also by text: that is all that comes from a driver of its own process.
		return errors.Is(err, e) || strings.Contains(err.Error(), e.Error())
	}):
		why.Message = fmt.Sprintf("%s (%s)", err, freeBelow(a.config.StateDir))
	default:
		return fleet.Reason{}, false
	}
	why.Code = fleet.ReasonDiskFull
	why.Hint = "make room on this host's disk; what runs goes on, and the agent tries again by itself"
	return why, true
}

// What must be free before an activation begins: who runs it writes down what
// becomes of it, and a switch that ends halfway for want of room is worse than
// none. Going back needs no permission.
const (
	runBytes = 1 << 20
	runFiles = 32
)

// roomToRun is ErrNoRoom where an activation had better not begin.
func (a *Agent) roomToRun() error {
	var fs unix.Statfs_t
	dir := a.config.StateDir
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("looking at the disk: %w", err)
	}
	if fs.Bavail*uint64(fs.Bsize) >= runBytes && (fs.Files == 0 || fs.Ffree >= runFiles) { //nolint:gosec,unconvert // Not negative. Some count no files.
		return nil
	}
	return fmt.Errorf("%w: an activation begins with %d bytes and %d files free, %s", ErrNoRoom, runBytes, runFiles, freeBelow(dir))
}

// freeBelow says how much room the disk of a directory has.
func freeBelow(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Sprintf("%s can't be looked at: %v", dir, err)
	}
	return fmt.Sprintf("%d bytes and %d files are free below %s", fs.Bavail*uint64(fs.Bsize), fs.Ffree, dir) //nolint:gosec,unconvert // Not negative.
}
