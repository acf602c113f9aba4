package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// noRoom are the errors of a disk, or a quota, without room.
var noRoom = []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EFBIG}

// fullDisk explains an error that comes of a disk without room; is says
// whether err does. The error names the file.
func (a *Agent) fullDisk(err error) (why fleet.Reason, is bool) {
	switch {
	case errors.As(err, new(*sync.RefusedError)):
		return fleet.Reason{}, false // It would be another machine's disk.
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
	why.Hint = roomHint
	return why, true
}

const roomHint = "make room on this host's disk; what runs goes on, and the agent tries again by itself"

// hinted adds what to do to an error that a person sees, where it comes of a
// disk without room.
func (a *Agent) hinted(err error, hint string) error {
	if _, is := a.fullDisk(err); !is {
		return err
	}
	if !errors.Is(err, ErrNoRoom) {
		err = fmt.Errorf("%w (%s)", err, freeBelow(a.config.StateDir))
	}
	return ui.WithHint(err, hint)
}

// readOnly is ST_RDONLY, which is called MNT_RDONLY elsewhere.
const readOnly = 1

// What must be free before an activation begins: who runs it writes down what
// becomes of it, and a switch that ends halfway for want of room is worse than
// none. Going back needs no permission.
const (
	runBytes = 1 << 20
	runFiles = 32
)

// roomToRun is ErrNoRoom where an activation of what was built had better not
// begin: for want of room for what becomes of it, for what it writes beside what
// was built, or for the link to its secrets.
func (a *Agent) roomToRun(b journal.Built) error {
	for i, dir := range []string{a.config.StateDir, a.runsDir(), b.Path, b.Secrets} {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err != nil && i > 1 {
			continue // There is none; or a driver calls what it built by another name.
		}
		if err != nil {
			return fmt.Errorf("looking at the disk: %w", err)
		}
		if fs.Flags&readOnly != 0 || fs.Blocks == 0 {
			continue // Nothing is written there, such as to a store of Nix's; or it is memory without a bound.
		}
		if fs.Bavail*uint64(fs.Bsize) < runBytes || fs.Files != 0 && fs.Ffree < runFiles { //nolint:gosec,unconvert // Not negative. Some count no files.
			return fmt.Errorf("%w: an activation begins with %d bytes and %d files free, %s", ErrNoRoom, runBytes, runFiles, freeBelow(dir))
		}
	}
	return nil
}

// freeBelow says how much room the disk of a directory has.
func freeBelow(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Sprintf("%s can't be looked at: %v", dir, err)
	}
	return fmt.Sprintf("%d bytes and %d files are free below %s", fs.Bavail*uint64(fs.Bsize), fs.Ffree, dir) //nolint:gosec,unconvert // Not negative.
}
