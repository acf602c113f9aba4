package execute

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// peerOf is who connected a socket: unix(4) of macOS, LOCAL_PEERPID and LOCAL_PEERCRED.
func peerOf(fd int) (pid, uid int, err error) {
	pid, err = unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		return 0, 0, fmt.Errorf("looking who connected: %w", err)
	}
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, 0, fmt.Errorf("looking who connected: %w", err)
	}
	return pid, int(cred.Uid), nil
}
