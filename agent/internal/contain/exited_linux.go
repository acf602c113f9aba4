package contain

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// untilExited returns when a child has ended, and leaves it to be collected: until then
// its number, and its group's, are nobody else's.
func untilExited(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil || !errors.Is(err, unix.EINTR) {
			if err != nil {
				err = fmt.Errorf("waiting for a program: %w", err)
			}
			return err
		}
	}
}
