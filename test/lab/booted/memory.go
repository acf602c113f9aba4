//go:build linux

package booted

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxMapping bounds one piece of a program's memory, in bytes: more is address space that
// a runtime reserves.
const maxMapping = 1 << 30

// Memory gives each piece of a program's memory that it can write to, as a core dump has
// them. The number of the process is the host's.
func (h *Host) Memory(pid int, each func(piece []byte)) error {
	outside, err := h.outside(pid)
	if err != nil {
		return err
	}
	dir := "/proc/" + strconv.Itoa(outside)
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		return err
	}
	mem, err := os.Open(dir + "/mem")
	if err != nil {
		return err
	}
	defer func() { _ = mem.Close() }()
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &from, &to); err != nil || to-from > maxMapping {
			return fmt.Errorf("a piece of memory at %s: %w", fields[0], err)
		}
		piece := make([]byte, to-from)
		n, err := mem.ReadAt(piece, from)
		if err != nil && !errors.Is(err, io.EOF) && n == 0 {
			continue // Given back since, or nobody's to read, as a core dump has it.
		}
		each(piece[:n])
	}
	return nil
}

// outside is the number by which this machine knows a process of a host.
func (h *Host) outside(pid int) (int, error) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.init))
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err != nil || ns != space {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/status")
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
			if f := strings.Fields(s.Text()); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == strconv.Itoa(pid) {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("%s has no process %d", h.Name, pid)
}
