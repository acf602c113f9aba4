package execute

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// processes lists the processes that run: no zombies.
func processes() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + n + "/stat")
		if err != nil {
			continue // it ended
		}
		if runs(stat) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// runs says whether a process does, by its line of /proc/PID/stat (proc_pid_stat(5)). One
// whose first thread ended looks like a zombie, and runs on as long as there are others.
func runs(stat []byte) bool {
	const state, threads = 0, 17 // After the name, which may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= threads {
		return false
	}
	switch fields[state][0] {
	case 'Z', 'X':
		n, err := strconv.Atoi(string(fields[threads]))
		return err == nil && n > 1
	}
	return true
}

// bootID tells one boot from another; empty where it can't be known.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
