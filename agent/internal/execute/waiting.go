package execute

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A runner that waits is there before its run: a process takes 10 ms and more to
// start, which nobody notices while a generation is built. It is told of its run
// over a socket: one line, the run's directory, with the run's lock and log as open
// descriptors. It answers with one byte, and then has the run; who is not answered
// ends it. It ends by itself when the other end of the socket is closed, and so with
// the process that had it started.
const (
	// waitArgument is in the place of a run's directory. What follows it is the socket
	// to connect to; nothing for one that is inherited.
	waitArgument = "-"
	// socketFD is the socket, in the place of the lock.
	socketFD = lockFD
	// maxWait is how long a runner waits: builds take a while.
	maxWait = 10 * time.Minute
	// answerWithin bounds the wait for its answer.
	answerWithin = time.Second
)

// errNoRun says that a runner waited for nothing.
var errNoRun = errors.New("no run")

// waiting is a runner that waits.
type waiting struct {
	child  *child // nil while the service manager starts it
	socket *os.File
	called *call // nil for one that inherited the socket
}

// Prepare has a runner wait for the next run, where none does. It ends by itself
// after ten minutes, or with this process. A run needs none.
func (e *Executor) Prepare() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiting != nil && e.waiting.waits() {
		return nil
	}
	e.dismiss()
	w, err := e.await()
	if err != nil {
		return fmt.Errorf("starting a runner ahead: %w", err)
	}
	e.waiting = w
	return nil
}

// waits says whether a runner still does.
func (w *waiting) waits() bool {
	if w.child == nil {
		return w.called.fresh()
	}
	return !w.child.ended()
}

// Release ends a runner that waits for nothing.
func (e *Executor) Release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dismiss()
}

// dismiss ends the runner that waits, which knows of no run.
func (e *Executor) dismiss() {
	w := e.waiting
	if w == nil {
		return
	}
	e.waiting = nil
	w.called.hangUp()
	if w.child == nil { // It finds nobody there.
		return
	}
	if w.child.service != nil {
		// It ends by itself, and is no failed service then.
		_ = control(w.socket, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
		_ = w.child.gone(answerWithin)
	}
	w.child.put()
	_ = w.socket.Close()
}

// put ends a runner that has no run, or did not say that it has: what it was told it
// does not read any more.
func (c *child) put() {
	switch {
	case c.ended():
	case c.service != nil:
		// On Linux the handle is of the process that it was of, whatever its number is
		// now; elsewhere it lived a moment ago.
		_ = c.service.Kill()
		_ = c.gone(answerWithin)
		_ = c.service.Release()
	default:
		// This process has not collected it: the number is its own.
		_ = unix.Kill(c.pid, unix.SIGKILL)
		c.wait(0)
	}
	_ = c.alive.Close()
}

// await starts a runner that waits.
func (e *Executor) await() (*waiting, error) {
	if w := e.launch(); w != nil {
		return w, nil
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	defer func() { _ = null.Close() }()
	c, err := e.process(waitArgument, null, null, theirs)
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	return &waiting{child: c, socket: ours}, nil
}

// handOver gives a run to the runner that waits; nil where none does any more. Then
// nothing of the run was begun, but where it says that it was.
func (e *Executor) handOver(dir string, lock, out *os.File) *child {
	w := e.waiting
	if w == nil {
		return nil
	}
	e.waiting = nil
	if err := w.connect(); err != nil {
		if !errors.Is(err, errNoRun) { // One that waited and died: the next one may be well.
			e.withoutUnits(err)
		}
		return nil
	}
	err := control(w.socket, func(fd int) error {
		return unix.Sendmsg(fd, []byte(dir+"\n"), unix.UnixRights(int(lock.Fd()), int(out.Fd())), nil, noSignal)
	})
	if err == nil {
		err = w.answer()
	}
	if err != nil {
		e.log.Debug("the runner that waited does not take its run", "error", err)
		w.child.put()
	}
	if w.socket != w.child.alive {
		_ = w.socket.Close()
	}
	if err != nil {
		return nil
	}
	return w.child
}

// answer waits for the runner's. The descriptors that it was sent stay open here
// until then: not every system keeps them while they are on their way.
func (w *waiting) answer() error {
	return control(w.socket, func(fd int) error {
		if err := readableIn(int32(fd), answerWithin); err != nil { //nolint:gosec // A descriptor.
			return err
		}
		n, err := unix.Read(fd, make([]byte, 1))
		if err == nil && n != 1 {
			err = errNoRun
		}
		return err
	})
}

// control does something with a file's descriptor, which stays as it is: asking for
// it otherwise would change how it waits.
func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil { //nolint:gosec // A descriptor.
		return err
	}
	return failed
}

// socketPair makes two sockets that are connected, and no process inherits by
// accident.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	unix.CloseOnExec(fds[0])
	unix.CloseOnExec(fds[1])
	return os.NewFile(uintptr(fds[0]), "runner"), os.NewFile(uintptr(fds[1]), "executor"), nil //nolint:gosec // Descriptors are not negative.
}

// awaitRun waits for a run, and has what this process prints go to its log. socket
// stays open for as long as this process lives: the executor may see by it that it
// does. errNoRun where there is none to come.
func awaitRun(socket int, most time.Duration) (dir string, lock *os.File, err error) {
	getReady()
	if err := readableIn(int32(socket), most); err != nil { //nolint:gosec // A descriptor.
		return "", nil, err
	}
	buf, oob := make([]byte, 2*unix.PathMax), make([]byte, unix.CmsgSpace(2*4))
	var n, oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(socket, buf, oob, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil && !errors.Is(err, unix.ECONNRESET) { // Nobody let it in.
		return "", nil, fmt.Errorf("waiting for a run: %w", err)
	}
	if n <= 0 {
		return "", nil, errNoRun
	}
	fds, err := descriptors(oob[:oobn])
	if err != nil {
		return "", nil, err
	}
	dir, whole := strings.CutSuffix(string(buf[:n]), "\n")
	if !whole || !filepath.IsAbs(dir) || len(fds) != 2 {
		return "", nil, fmt.Errorf("waiting for a run: told %q with %d descriptors", buf[:n], len(fds))
	}
	lock = os.NewFile(uintptr(fds[0]), filepath.Join(dir, fileLock)) //nolint:gosec // As above.
	if err := errors.Join(redirect(fds[1], unix.Stdout), redirect(fds[1], unix.Stderr), unix.Close(fds[1])); err != nil {
		return "", nil, fmt.Errorf("opening the run's log: %w", err)
	}
	if !isFile(fds[0], lock.Name()) {
		return "", nil, fmt.Errorf("waiting for a run: what came with %s is not its lock", dir)
	}
	if held, err := flock(lock, unix.LOCK_EX); held || err != nil { // It has it, with whom it has it from.
		return "", nil, fmt.Errorf("waiting for a run: the lock of %s is not held: %w", dir, cmp.Or(err, ErrExists))
	}
	if err := unix.Sendmsg(socket, []byte{1}, nil, nil, noSignal); err != nil {
		return "", nil, fmt.Errorf("taking a run: %w", err)
	}
	return dir, lock, nil
}

// getReady does ahead what a process does once, and a run would wait for: package os
// tries out how it can wait for processes, and encoding/json looks at the types.
func getReady() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Release()
	}
	_ = json.Unmarshal([]byte(`{"action":{"steps":[{"link":{},"sync":{},"exec":{}}]}}`), &request{})
	_, _ = json.Marshal(started{})
}

// readableIn waits until there is something to read, or the other end is closed.
func readableIn(fd int32, most time.Duration) error {
	due := time.Now().Add(most) //nolint:forbidigo // A pause, by the monotonic clock.
	for {
		// At least one look, whatever kept this process from looking in time.
		left := time.Until(due) //nolint:forbidigo // As above.
		n, err := unix.Poll([]unix.PollFd{{Fd: fd, Events: unix.POLLIN}}, int(max(0, left+time.Millisecond).Milliseconds()))
		switch {
		case err == nil && n == 0 && left <= 0:
			return errNoRun
		case errors.Is(err, unix.EINTR), err == nil && n == 0:
		case err != nil:
			return fmt.Errorf("waiting for a run: %w", err)
		default:
			return nil
		}
	}
}

// descriptors are those that came with a message.
func descriptors(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("waiting for a run: %w", err)
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("waiting for a run: %w", err)
		}
		fds = append(fds, got...)
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return fds, nil
}
