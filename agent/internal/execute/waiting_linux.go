package execute

import "golang.org/x/sys/unix"

// noSignal has writing to a socket that nobody reads fail, and not kill.
const noSignal = unix.MSG_NOSIGNAL

// redirect makes to another name of what fd is.
func redirect(fd, to int) error {
	return unix.Dup3(fd, to, 0)
}
