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

// Units has the host's service manager start runners, each a service of its own: what is
// done with the agent's own service, its processes and its memory does not meet an
// activation.
type Units struct {
	Manager Manager
	// Dir is where runners connect to this process: there, and nobody else's.
	Dir string
}

// Manager is a service manager that starts runners.
type Manager interface {
	// Start starts a service that runs argv, an absolute path first, once. It returns
	// when that is begun, with no word of whether the program runs; whoever calls
	// waits for it, and has another way where it fails.
	Start(ctx context.Context, id string, argv []string) error
	// Clear takes away what the manager keeps of services that are over, whoever
	// started them. What fails is left for the next time.
	Clear(ctx context.Context)
	// Stopping says whether it starts nothing because the host is shut down.
	Stopping(ctx context.Context) bool
}

// Systemd is systemd, whose services are transient, because switch-to-configuration leaves
// those alone, as it does dead-man switches. A shutdown ends the agent first, so that
// nobody decides anything for what the shutdown does, and then tells the runner to stop,
// while all file systems are mounted still: it waits for a runner that lets a commit come
// to its end.
type Systemd struct {
	// Address is where it listens.
	Address systemd.Address
	// Agent is the service that a shutdown stops before runners; empty for none.
	Agent string
}

// Start implements Manager.
func (s Systemd) Start(ctx context.Context, id string, argv []string) error {
	return s.Address.StartTransient(ctx, systemd.Service{ //nolint:wrapcheck // It says what failed.
		Name: unitPrefix + id + ".service", Description: "fleet activation", Argv: argv, OOMScore: -500, Alone: true, Ahead: true,
		// A commit may ask the daemon of nix.
		Ends: true, After: []string{"nix-daemon.socket", "nix-daemon.service"}, Before: s.Agent, StopWithin: stopWithin,
	})
}

// Stopping implements Manager.
func (s Systemd) Stopping(ctx context.Context) bool { return s.Address.Stopping(ctx) }

// Clear implements Manager: systemd keeps nothing of them.
func (Systemd) Clear(context.Context) {}

const (
	// socketPrefix begins the name of what a runner connects to.
	socketPrefix = "runner-"
	// launchWithin bounds how long the service manager is asked, and comeWithin the wait
	// for the runner that it starts. After both there is another way, and for some time
	// only that: activations must not wait for one again and again that does nothing.
	launchWithin, comeWithin = 2 * time.Second, 3 * time.Second
	unitsAgainAfter          = 5 * time.Minute
	// unitPrefix begins the name of each service.
	unitPrefix = "fleet-activation-"
)

// call is a runner that the service manager was asked to start, and which connects to a
// socket.
type call struct {
	listener *net.UnixListener
	since    time.Time
}

// clear removes the sockets of a process that died, and what its runners left.
func (u *Units) clear() {
	u.Manager.Clear(context.Background())
	old, _ := filepath.Glob(filepath.Join(u.Dir, socketPrefix+"*")) // Fails for a bad pattern only.
	for _, path := range old {
		_ = os.Remove(path) // In /run: only rubbish is left behind.
	}
}

// launch has the service manager start a runner that waits; nil where it does not, or did
// not just now, and a warning the first time.
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

// start has the service manager start a runner, and listens for it.
func (u *Units) start(runner []string) (*call, error) {
	id := strings.ToLower(rand.Text()[:8])
	path := filepath.Join(u.Dir, socketPrefix+id)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), launchWithin)
	defer cancel()
	if err := u.Manager.Start(ctx, id, append(slices.Clone(runner), waitArgument+path)); err != nil {
		_ = l.Close()
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	u.Manager.Clear(ctx)                              // Of the ones before: this one starts meanwhile.
	return &call{listener: l, since: time.Now()}, nil //nolint:forbidigo // For a pause, by the monotonic clock.
}

// withoutUnits has runners be processes of this process's own service for a while.
func (e *Executor) withoutUnits(err error) {
	e.unitsFailed = time.Now() //nolint:forbidigo // As above.
	e.log.Warn("the service manager starts no runner: runs are processes of the agent's own service for some minutes", "error", err)
}

// errGoesDown says that the service manager starts nothing because the host is shut down.
var errGoesDown = errors.New("the host is being shut down: nothing begins any more")

// goesDown is why a runner that it did not start is not to be a process of this
// process's own service instead: what it works on would be unmounted beside it.
func (e *Executor) goesDown() error {
	if e.units == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), launchWithin)
	defer cancel()
	if e.units.Manager.Stopping(ctx) {
		return errGoesDown
	}
	return nil
}

// fresh says whether a runner may come yet, or waits to be let in.
func (c *call) fresh() bool { return time.Since(c.since) < maxWait } //nolint:forbidigo // As above.

// hangUp takes no runner any more.
func (c *call) hangUp() {
	if c != nil {
		_ = c.listener.Close()
	}
}

// connect lets in a runner that was asked for, where it was not yet.
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

// gone says whether a runner that is no child is, after so long at most.
func (c *child) gone(most time.Duration) bool {
	return control(c.alive, func(fd int) error {
		// POLLHUP, because macOS says nothing of what was not asked for; an answer that
		// came too late is none of this.
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLHUP}} //nolint:gosec // A descriptor.
		due := time.Now().Add(most)                                    //nolint:forbidigo // As above.
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

// leadSession sees to it that this process leads a session of its own, by whose number
// what it leaves is found. Service managers start services like that; one that does not
// gets no run.
func leadSession() error {
	pid := os.Getpid()
	if sid, err := unix.Getsid(0); err == nil && sid == pid {
		return nil
	}
	if _, err := unix.Setsid(); err != nil {
		return fmt.Errorf("beginning a session of its own: %w", err)
	}
	return nil
}
