package execute

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes this process the parent of its descendants' orphans, so that
// none gets lost.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("containing a program: %w", err)
	}
	return nil
}

// endDescendants kills all that come from this process, again and again because
// more may be born meanwhile, and says how many are left.
func endDescendants() int {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	last := time.NewTimer(killGrace)
	defer last.Stop()
	for {
		pids, err := descendants(os.Getpid())
		if err != nil || len(pids) == 0 {
			return 0
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
		select {
		case <-tick.C:
		case <-last.C:
			return len(pids)
		}
	}
}

// descendants lists the live processes that come from one.
func descendants(of int) ([]int, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int, len(all))
	for _, pid := range all {
		parents[pid] = parent(pid)
	}
	var found []int
	for _, pid := range all {
		for p := parents[pid]; p > 0; p = parents[p] {
			if p == of {
				found = append(found, pid)
				break
			}
		}
	}
	return found, nil
}

// parent of a process; 0 where it ended.
func parent(pid int) int {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// State and parent follow the name, which may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	p, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return p
}
