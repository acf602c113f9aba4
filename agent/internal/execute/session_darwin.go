package execute

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// zombie is SZOMB of sys/proc.h.
const zombie = 5

// processes lists the processes that aren't zombies.
func processes() ([]int, error) {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil, err
	}
	var pids []int
	for i := range all {
		if p := &all[i].Proc; p.P_stat != zombie {
			pids = append(pids, int(p.P_pid))
		}
	}
	return pids, nil
}

// bootID tells one boot from another: the time of the boot.
func bootID() string {
	tv, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return ""
	}
	return strconv.FormatInt(tv.Sec, 10)
}
