//go:build linux

package booted

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// removeLeftovers ends hosts of a run that was killed, and removes its mounts,
// namespaces and directory. Whoever calls it holds the lock, so no other run is
// there.
func removeLeftovers(ctx context.Context, dir string) error {
	pids, err := oldHosts(dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending an old host: %w", err)
		}
	}
	for range 100 {
		if pids, err = oldHosts(dir); err != nil || len(pids) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(pids) > 0 {
		return fmt.Errorf("old hosts don't end: pids %v", pids)
	}
	removeAllGroups()
	mounts, err := mountsBelow(dir)
	for _, m := range slices.Backward(mounts) {
		err = errors.Join(err, unmount(m))
	}
	return errors.Join(err, removeNetworks(ctx), removeTree(dir))
}

// oldHosts are the processes of systemd-nspawn and of emulators that have one of the lab's names,
// and the first processes of hosts whose root is below dir.
func oldHosts(dir string) ([]int, error) {
	var pids []int
	for pid := range inits() {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err == nil && bytes.Contains(mounts, []byte("upperdir="+dir+"/")) {
			pids = append(pids, pid)
		}
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		cmdline, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		argv := bytes.Split(cmdline, []byte{0})
		name := map[string]string{"systemd-nspawn": "--machine=" + prefix, emulator: prefix}[filepath.Base(string(argv[0]))]
		if name == "" {
			continue
		}
		if slices.ContainsFunc(argv, func(a []byte) bool { return bytes.HasPrefix(a, []byte(name)) }) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// mountsBelow lists what is mounted at or below dir, in the order of mounting.
func mountsBelow(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		// "36 35 98:0 /root /point options …"; the lab's paths need no escapes.
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			found = append(found, fields[4])
		}
	}
	return found, nil
}
