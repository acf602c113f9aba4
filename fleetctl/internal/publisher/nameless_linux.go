package publisher

import (
	"os"

	"golang.org/x/sys/unix"
)

// nameless makes a file in a directory that never has a name there, so that
// nothing is left of it however the process ends; where the file system can't do
// that, the name goes at once.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return unnamed(dir) // Which says better what is wrong, if it is.
	}
	return os.NewFile(uintptr(fd), dir), nil //nolint:gosec // A descriptor is not negative.
}
