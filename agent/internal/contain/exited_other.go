//go:build !linux

package contain

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// untilExited returns when a child has ended, and leaves it to be collected: until then
// its number, and its group's, are nobody else's. waitid(2) can't be relied on here.
func untilExited(pid int) error {
	kq, err := unix.Kqueue()
	if err != nil {
		return fmt.Errorf("waiting for a program: %w", err)
	}
	defer func() { _ = unix.Close(kq) }()
	var ev unix.Kevent_t
	unix.SetKevent(&ev, pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	ev.Fflags = unix.NOTE_EXIT
	for {
		got := make([]unix.Kevent_t, 1)
		_, err := unix.Kevent(kq, []unix.Kevent_t{ev}, got, nil)
		switch {
		case err == nil, errors.Is(err, unix.ESRCH): // It has, before it was asked for.
			return nil
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("waiting for a program: %w", err)
		}
	}
}
