package execute

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// peerOf is who connected a socket: unix(7), SO_PEERCRED.
func peerOf(fd int) (pid, uid int, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, fmt.Errorf("looking who connected: %w", err)
	}
	return int(cred.Pid), int(cred.Uid), nil
}
