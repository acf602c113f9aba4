package deadman

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openWake opens the pipe with a name that a switch is woken through. For reading
// and writing, so that it never ends.
func openWake(dir string) (*os.File, error) {
	path := filepath.Join(dir, fileWake)
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return nil, fmt.Errorf("opening the switch's pipe: %w", err)
	}
	return f, nil
}

// wake has the switch look at its directory; there says that one waits.
func wake(dir string) (there bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, fileWake), os.O_WRONLY|unix.O_NONBLOCK, 0) //nolint:gosec // As above.
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, os.ErrNotExist): // nobody reads
		return false, nil
	case err != nil:
		return false, fmt.Errorf("waking the switch: %w", err)
	}
	_, err = f.Write([]byte{1})
	there = true
	switch {
	case errors.Is(err, unix.EAGAIN): // It is woken already, often.
		err = nil
	case errors.Is(err, unix.EPIPE): // Who read went between the open and the write.
		there, err = false, nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return there, fmt.Errorf("waking the switch: %w", err)
	}
	return there, nil
}
