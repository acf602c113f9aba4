package execute

import "golang.org/x/sys/unix"

// noSignal is not needed: Go's runtime takes SIGPIPE for sockets as an error.
const noSignal = 0

// redirect makes to another name of what fd is.
func redirect(fd, to int) error {
	return unix.Dup2(fd, to)
}
