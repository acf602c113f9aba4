package execute

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
)

// Leave tells the runners that are processes of this process's own service to stop, as a
// shutdown tells those that are services, and waits, within ctx, until they have: what
// they work on is unmounted once this process has ended. A commit comes to its end, where
// ctx has that much time. Runs that go on are left to themselves.
func (e *Executor) Leave(ctx context.Context) {
	for _, id := range e.tellOwn() {
		if err := e.waitChild(ctx, id); err != nil {
			e.log.Warn("a run goes on while the host is shut down", "run", id, "error", err)
		}
	}
}

// tellOwn tells runners that are children to stop, and returns their runs.
func (e *Executor) tellOwn() (told []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, c := range e.children {
		if c.service != nil || c.ended() { // Collected here only: the number is its own.
			continue
		}
		if err := unix.Kill(c.pid, unix.SIGTERM); err != nil {
			e.log.Warn("telling a runner to stop failed", "run", id, "error", err)
			continue
		}
		told = append(told, id)
	}
	return told
}

// finishes has what comes to its end not hear that the runner is told to stop, until
// finishWithin is over: a shutdown waits for it. end frees what that takes.
func (r *run) finishes() (end func()) {
	stop, late, done, ended := r.stop, make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	r.stop, r.told = late, make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case sig := <-stop:
			close(r.told)
			over, free := r.clock.After(finishWithin)
			defer free()
			select {
			case <-over:
				late <- sig
			case <-done:
			}
		case <-done:
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// toldAfter is how long after a program that a shutdown ended its runner hears of that at
// the latest: all are told at once, in no order.
const toldAfter = time.Second

// managerTells says whether the host's service manager says that it is shut down: systemd
// does, launchd does not. Another one in tests.
var managerTells = func() bool {
	ctx, cancel := context.WithTimeout(context.Background(), toldAfter)
	defer cancel()
	c, err := manager.Connect(ctx)
	if err != nil {
		return !errors.Is(err, systemd.ErrAbsent) // It may be busy with the shutdown.
	}
	_ = c.Close()
	return true
}

// stopping says whether what failed did so because all processes are told to stop: the
// runner is, or is about to be. Where nobody else says that, anything that fails may be of
// that, and waits for the signal; elsewhere only what the signal itself ended does.
func (r *run) stopping(err error) bool {
	if r.toldWithin(0) {
		return true
	}
	return (endedByTerm(err) || !managerTells()) && r.toldWithin(toldAfter)
}

func endedByTerm(err error) bool {
	var exit *exitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM
}

// toldWithin says whether the runner is told to stop before so much time is over; 0 looks
// only.
func (r *run) toldWithin(d time.Duration) bool {
	if d > 0 {
		over, free := r.clock.After(d)
		defer free()
		select {
		case <-r.stop:
			return true
		case <-r.told:
			return true
		case <-over: // And one of the others, maybe.
		}
	}
	select {
	case <-r.stop:
		return true
	case <-r.told:
		return true
	default:
		return false
	}
}

// shutDown has what failed while the host is shut down blamed on that: services are
// stopped then, and none can be started.
func (r *run) shutDown(res Result) Result {
	stopping := false
	switch res.Outcome {
	case OutcomeExit: // Which has been looked at for the runner's own signal.
		stopping = r.toldWithin(0) || manager.Stopping(context.Background())
	case OutcomeError:
		stopping = r.stopping(nil) || manager.Stopping(context.Background())
	case OutcomeOK, OutcomeHung, OutcomeStopped, OutcomeBusy, OutcomeLost:
	}
	if !stopping {
		return res
	}
	return Result{Outcome: OutcomeStopped, Step: res.Step, Message: "the host was shut down meanwhile: " + res.Message}
}
