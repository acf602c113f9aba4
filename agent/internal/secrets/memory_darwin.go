package secrets

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var ram = ramDisk{run: runProgram, mounted: mountedAt}

func runProgram(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output() //nolint:gosec // macOS's own.
	return string(out), err
}

// mountedAt asks the kernel which device is mounted at dir itself.
func mountedAt(dir string) string {
	at, err := filepath.EvalSymlinks(dir) // /var is a link.
	if err != nil {
		return ""
	}
	var fs unix.Statfs_t
	if unix.Statfs(at, &fs) != nil || text(fs.Mntonname[:]) != at || text(fs.Fstypename[:]) != "hfs" {
		return ""
	}
	return text(fs.Mntfromname[:])
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func inMemory(dir string) bool { return ram.inMemory(dir) }

func mountMemory(dir string, fill func(at string) error) error { return ram.mount(dir, fill) }

// clearBeneath has nothing to do: mount cleared it before.
func clearBeneath(string) error { return nil }

// Unmount takes the memory of a link at root away, with what is in it; nothing where there
// is none.
func Unmount(root string) error { return ram.unmount(root + ".d") }
