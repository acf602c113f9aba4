package systemd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// outstanding is how much of what was written to a socket the other end has not
// read: unix(7), SIOCOUTQ.
func outstanding(fd uintptr) (int, error) {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil {
		return 0, fmt.Errorf("looking at what is not read yet: %w", err)
	}
	return n, nil
}
