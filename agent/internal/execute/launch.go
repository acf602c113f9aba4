package execute

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
)

// Units has systemd start runners, each a transient service: what is done with the
// agent's own service, its processes and its memory does not meet an activation, and a
// shutdown ends it with the last processes. Transient, because switch-to-configuration
// leaves those alone, as it does dead-man switches.
type Units struct {
	// Systemd is where it listens.
	Systemd systemd.Address
	// Dir is where runners connect to this process: there, and nobody else's.
	Dir string
}

const (
	// socketPrefix begins the name of what a runner connects to.
	socketPrefix = "runner-"
	// launchWithin bounds how long systemd is asked, and comeWithin the wait for the
	// runner that it starts. After both there is another way, and for some time only
	// that: activations must not wait for a systemd again and again that does nothing.
	launchWithin, comeWithin = 2 * time.Second, 3 * time.Second
	unitsAgainAfter          = 5 * time.Minute
	// unitPrefix begins the name of each service.
	unitPrefix = "fleet-activation-"
)

// call is a runner that systemd was asked to start, and which connects to a socket.
type call struct {
	listener *net.UnixListener
	since    time.Time
}

// clear removes the sockets of a process that died.
func (u *Units) clear() {
	old, _ := filepath.Glob(filepath.Join(u.Dir, socketPrefix+"*")) // Fails for a bad pattern only.
	for _, path := range old {
		_ = os.Remove(path) // In /run: only rubbish is left behind.
	}
}

// launch has systemd start a runner that waits; nil where it does not, or did not just
// now, and a warning the first time.
func (e *Executor) launch() *waiting {
	if e.units == nil || !e.unitsFailed.IsZero() && time.Since(e.unitsFailed) < unitsAgainAfter { //nolint:forbidigo // By the monotonic clock.
		return nil
	}
	c, err := e.units.start(e.runner)
	if err != nil {
		e.withoutUnits(err)
		return nil
	}
	return &waiting{called: c}
}

// start has systemd start a runner, and listens for it.
func (u *Units) start(runner []string) (*call, error) {
	id := strings.ToLower(rand.Text()[:8])
	path := filepath.Join(u.Dir, socketPrefix+id)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), launchWithin)
	defer cancel()
	if err := u.Systemd.StartTransient(ctx, systemd.Service{
		Name: unitPrefix + id + ".service", Description: "fleet activation",
		Argv: append(slices.Clone(runner), waitArgument+path), OOMScore: -500, Alone: true, Ahead: true,
	}); err != nil {
		_ = l.Close()
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	return &call{listener: l, since: time.Now()}, nil //nolint:forbidigo // For a pause, by the monotonic clock.
}

// withoutUnits has runners be processes of this process's own service for a while.
func (e *Executor) withoutUnits(err error) {
	e.unitsFailed = time.Now() //nolint:forbidigo // As above.
	e.log.Warn("systemd starts no runner: runs are processes of the agent's own service for some minutes", "error", err)
}

// fresh says whether a runner may come yet, or waits to be let in.
func (c *call) fresh() bool { return time.Since(c.since) < maxWait } //nolint:forbidigo // As above.

// hangUp takes no runner any more.
func (c *call) hangUp() {
	if c != nil {
		_ = c.listener.Close()
	}
}

// connect lets in a runner that systemd was asked for, where it was not yet.
func (w *waiting) connect() error {
	if w.child != nil {
		return nil
	}
	defer w.called.hangUp()
	if err := w.called.listener.SetDeadline(time.Now().Add(comeWithin)); err != nil { //nolint:forbidigo // As above.
		return err
	}
	for {
		conn, err := w.called.listener.AcceptUnix()
		if err != nil {
			return fmt.Errorf("waiting for the runner: %w", err)
		}
		socket, err := conn.File() // Another descriptor of it.
		_ = conn.Close()
		if err != nil {
			return err
		}
		if w.child, err = runnerAt(socket, os.Geteuid()); err == nil {
			w.socket = socket
			return nil
		}
		_ = socket.Close()
		if !errors.Is(err, errStranger) {
			return err
		}
	}
}

// errStranger is somebody else than a runner of this process's.
var errStranger = errors.New("connected by another user")

// runnerAt is the runner at the other end of a socket, of the user with the number uid.
func runnerAt(socket *os.File, uid int) (c *child, err error) {
	c = &child{alive: socket}
	of := -1
	if err := control(socket, func(fd int) (err error) {
		c.pid, of, err = peerOf(fd)
		return err
	}); err != nil {
		return nil, err
	}
	if of != uid {
		return nil, errStranger
	}
	if c.service, err = os.FindProcess(c.pid); err != nil {
		return nil, fmt.Errorf("finding the runner: %w", err)
	}
	if c.gone(0) { // And so the handle may be another process's.
		_ = c.service.Release()
		return nil, errNoRun
	}
	return c, nil
}

// gone says whether a runner that systemd started is, after so long at most.
func (c *child) gone(most time.Duration) bool {
	return control(c.alive, func(fd int) error {
		polled := []unix.PollFd{{Fd: int32(fd)}} //nolint:gosec // A descriptor; an answer that came too late is none of this.
		due := time.Now().Add(most)              //nolint:forbidigo // As above.
		for {
			n, err := unix.Poll(polled, int(max(0, time.Until(due).Milliseconds()))) //nolint:forbidigo // As above.
			switch {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				return err
			case n == 0:
				return errNoRun
			default:
				return nil
			}
		}
	}) == nil
}

// calledBy is the socket over which a runner is told of its run: the one of that name,
// or without a name the one that it inherited. errNoRun where nobody is there any more.
func calledBy(name string) (int, error) {
	if name == "" {
		unix.CloseOnExec(socketFD)
		unix.CloseOnExec(aliveFD)
		return socketFD, nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, fmt.Errorf("connecting to the agent: %w", err)
	}
	unix.CloseOnExec(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: name}); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return -1, errNoRun
	case err != nil:
		return -1, fmt.Errorf("connecting to the agent: %w", err)
	}
	return fd, nil
}
