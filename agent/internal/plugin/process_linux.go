package plugin

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// executablePath is, in the child, the file that was verified and not whatever
// has its name by now.
func executablePath(*os.File) string { return "/proc/self/fd/3" }

// executableFiles puts that file where executablePath looks.
func executableFiles(exe *os.File) []*os.File { return []*os.File{exe} }

// processAttributes: the plugin ends with the thread that started it, which
// lives as long as the agent.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit returns when a child has ended, without reaping it.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
