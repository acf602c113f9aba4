package watchdog

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Environment of sd_notify(3) and sd_watchdog_enabled(3).
const (
	envSocket = "NOTIFY_SOCKET"
	envUsec   = "WATCHDOG_USEC"
	envPID    = "WATCHDOG_PID"
)

// notifier sends to the service manager what sd_notify(3) would. It keeps the
// socket, because the environment is to be without it: go-systemd's daemon package
// reads the environment with each message, so that activations, plugins and builds
// would inherit the variable and could speak for this program.
type notifier struct{ conn *net.UnixConn }

func dial(address string) (*notifier, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("reaching the service manager: %w", err)
	}
	return &notifier{conn: conn}, nil
}

// send sends assignments, such as READY=1.
func (n *notifier) send(lines ...string) error {
	if n == nil {
		return nil
	}
	// It must not wait for a manager that does not read.
	if err := n.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil { //nolint:forbidigo // A deadline of the system's.
		return fmt.Errorf("telling the service manager: %w", err)
	}
	if _, err := n.conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}

// sendTimeout bounds one message.
const sendTimeout = 5 * time.Second

// period is how often the service manager, or this program itself, wants to hear
// of progress; 0 where nobody does.
func period(getenv func(string) string) (time.Duration, error) {
	text := getenv(envUsec)
	if text == "" {
		return 0, nil
	}
	if pid := getenv(envPID); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil // It is another process that has to answer.
	}
	usec, err := strconv.ParseInt(text, 10, 64)
	if err != nil || usec <= 0 || usec > int64(maxPeriod/time.Microsecond) {
		return 0, fmt.Errorf("%s=%q: want microseconds, more than none and at most a day", envUsec, text)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// maxPeriod is beyond any use.
const maxPeriod = 24 * time.Hour
