package control

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerUID is the effective uid of the process that connected, when it did.
func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err //nolint:wrapcheck // The caller says what for.
	}
	var cred *unix.Xucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	})
	if err := errors.Join(err, cerr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
