package plugin

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// zombie is SZOMB of <sys/proc.h>.
const zombie = 5

// executablePath is the name of the file that was verified: macOS can't execute
// an open file. Its directory is root's alone, and so is the file.
func executablePath(exe *os.File) string { return exe.Name() }

func executableFiles(*os.File) []*os.File { return nil }

func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit returns when a child has ended, without reaping it.
func awaitExit(pid int) {
	for {
		p, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
		if err != nil || p.Proc.P_stat == zombie {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
