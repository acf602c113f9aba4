package execute

import (
	"bytes"
	"os"
	"strconv"
	"strings"
)

// processes lists the processes that aren't zombies.
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
		// The state is the first field after the name, which may hold anything.
		if _, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" ")); ok && len(rest) > 0 &&
			rest[0] != 'Z' && rest[0] != 'X' {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// bootID tells one boot from another; empty where it can't be known.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
