package coordinator

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/coordinator/internal/blob"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
)

// roomless adds what to do to an error that comes of a disk without room; dir
// is what lies on that disk.
func roomless(err error, dir string) error {
	full := errors.Is(err, store.ErrNoSpace) || errors.Is(err, blob.ErrNoSpace) ||
		slices.ContainsFunc([]syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG}, func(no syscall.Errno) bool {
			// Also by text: that is all that some errors of bbolt's keep.
			return errors.Is(err, no) || err != nil && strings.Contains(err.Error(), no.Error())
		})
	if !full || strings.Contains(err.Error(), roomHint) {
		return err
	}
	return fmt.Errorf("%w: %s of %s, then try again: nothing that was acknowledged is lost", err, roomHint, dir)
}

const roomHint = "make room on the disk"
