package console

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// noWait opens a terminal without it becoming the process's own, and without waiting.
const noWait = syscall.O_NOCTTY | syscall.O_NONBLOCK

// Here is this machine's console. teller is the command that runs Show.
func Here(teller []string) Console { return NewLinux(teller, awake) }

// awake is the clock of logind's monotonic times, which stands still while the machine
// sleeps.
func awake() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
