package execute

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// clock is the runner's time.
type clock interface {
	// Now is the wall time, for the result.
	Now() time.Time
	// After counts time in which the machine doesn't sleep, as deadlines do: a
	// lid closed midway must not make an activation hang. It sends once the
	// machine was awake for d; stop frees the timer.
	After(d time.Duration) (c <-chan time.Time, stop func())
}

// runtimeClock uses the timers of Go's runtime. They run on CLOCK_MONOTONIC on
// Linux and mach_absolute_time on macOS, and both stand still in suspend.
type runtimeClock struct{}

func (runtimeClock) Now() time.Time {
	return time.Now() //nolint:forbidigo // The runner is a process of its own: this is where time comes in.
}

func (runtimeClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// RunAction is the runner: the whole of a process that an executor started for
// the run in dir, or for one that it is told of later. It returns the exit code: 0
// when a result was written, good or bad, and when there was no run.
func RunAction(dir string) int {
	// What ends the agent's session or terminal is nothing to the runner. Caught
	// and dropped, because ignored signals would stay ignored in the programs.
	sink := make(chan os.Signal, 1)
	signal.Notify(sink, syscall.SIGHUP, syscall.SIGINT)
	defer signal.Stop(sink)
	var lock *os.File
	var err error
	if socket, waits := strings.CutPrefix(dir, waitArgument); waits {
		var fd int
		if err = leadSession(); err == nil {
			fd, err = calledBy(socket)
		}
		if err == nil {
			dir, lock, err = awaitRun(fd, maxWait)
		}
	} else {
		lock, err = lockOf(dir)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	defer signal.Stop(stop)
	if err == nil {
		err = runAction(dir, lock, runtimeClock{}, stop)
	}
	switch {
	case errors.Is(err, errNoRun):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "fleet runner: %v\n", err) // the log, when started by an executor
		return 1
	}
	return 0
}

// lockOf is the lock of a run, which the executor handed over or nobody has.
func lockOf(dir string) (*os.File, error) {
	if lock := inheritedLock(filepath.Join(dir, fileLock), lockFD); lock != nil {
		unix.CloseOnExec(aliveFD)
		return lock, nil
	}
	return takeLock(filepath.Join(dir, fileLock))
}

func runAction(dir string, lock *os.File, c clock, stop <-chan os.Signal) error {
	defer func() { _ = lock.Close() }()
	for _, name := range []string{fileStarted, fileResult} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("carrying out %s: %w", dir, errors.Join(ErrExists, err))
		}
	}
	var req request
	if err := readJSON(dir, fileAction, &req); err != nil {
		return err
	}
	log, err := openLog(dir)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	crashpoint.Hit(crashpoint.RunnerBegin)
	before := listBefore(req.Action.Steps)
	defer before.end()
	now := c.Now()
	if err := begin(dir, started{PID: os.Getpid(), BootID: bootID(), Time: now}); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RunnerBegan)
	syscall.Umask(0o022)
	r := run{req: req, dir: dir, log: &boundedLog{file: log, most: MaxLogBytes}, stop: stop, clock: c, before: before}
	if req.Finish {
		defer r.finishes()()
	}
	res := r.shutDown(r.all())
	res.Started, res.Ended = now, c.Now()
	r.log.finish()
	crashpoint.Hit(crashpoint.RunnerEnd)
	if err := writeJSON(dir, fileResult, res); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.RunnerDone)
	return nil
}

// begin writes that the run began, durably with the run's own entry. Both at once:
// neither counts without the other, and the first step waits for both.
func begin(dir string, s started) error {
	entry := make(chan error, 1)
	go func() { entry <- atomicfile.SyncDir(filepath.Dir(dir)) }()
	err := writeJSON(dir, fileStarted, s)
	if err = errors.Join(err, <-entry); err == nil {
		return nil
	}
	// It did not begin, and must not look like one that was cut short.
	if rerr := os.Remove(filepath.Join(dir, fileStarted)); !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// run carries out one request.
type run struct {
	req  request
	dir  string
	log  *boundedLog
	stop <-chan os.Signal
	// told is closed once the runner of what comes to its end was told to stop; nil for
	// others.
	told  chan struct{}
	clock clock
	// before are the units that were failed already; nil where nobody asked.
	before *unitsBefore
	// degraded are the parts that failed, and that the host can be without.
	degraded []string
}

func (r *run) all() Result {
	steps := r.req.Action.Steps
	if err := r.req.Action.Validate(); err != nil {
		return Result{Outcome: OutcomeError, Message: err.Error()}
	}
	late, free := r.clock.After(r.req.Action.Deadline)
	defer free()
	for i, s := range steps {
		select {
		case <-late:
			return r.hung(i)
		case <-r.stop:
			return r.stopped(i)
		default:
		}
		var res Result
		crashpoint.Hit(crashpoint.RunnerStep)
		switch {
		case s.Link != nil:
			link := atomicfile.Symlink
			if i+1 < len(steps) && besides(s.Link, steps[i+1].Link) {
				link = atomicfile.SymlinkLater
			}
			if err := link(s.Link.Target, s.Link.Path); err != nil {
				res = Result{Outcome: OutcomeError, Message: err.Error()}
			}
		case s.Sync != nil:
			if err := atomicfile.SyncFS(s.Sync.Paths...); err != nil {
				res = Result{Outcome: OutcomeError, Message: err.Error()}
			}
		case s.BootOnce != nil:
			x, err := bootOnce(*s.BootOnce)
			if err != nil {
				res = Result{Outcome: OutcomeError, Message: err.Error()}
			} else {
				res = r.program(i, x, late)
			}
		case s.Exec != nil:
			res = r.program(i, s.Exec, late)
		}
		crashpoint.Hit(crashpoint.RunnerStepped)
		if res.Outcome != "" {
			res.Step = i
			return res
		}
	}
	return Result{Outcome: OutcomeOK, Step: len(steps), Degraded: strings.Join(r.degraded, ", ")}
}

// besides says that the next link is in the same directory: with it, it is made
// durable.
func besides(l, next *driver.Link) bool {
	return next != nil && filepath.Dir(l.Path) == filepath.Dir(next.Path)
}

func (r *run) hung(step int) Result {
	return Result{Outcome: OutcomeHung, Step: step, Message: fmt.Sprintf(
		"step %d of %d wasn't done after %s and was ended", step+1, len(r.req.Action.Steps), r.req.Action.Deadline)}
}

func (r *run) stopped(step int) Result {
	return Result{Outcome: OutcomeStopped, Step: step, Message: fmt.Sprintf(
		"the runner was told to stop in step %d of %d", step+1, len(r.req.Action.Steps))}
}

// exec runs one program once; the zero Result means that it ended well.
func (r *run) exec(step int, x *driver.Exec, late <-chan time.Time) Result {
	p, err := r.start(x)
	if err != nil {
		res := Result{Outcome: OutcomeError, Message: fmt.Sprintf("step %d: starting %s: %v", step+1, x.Argv[0], err)}
		if errors.Is(err, contain.ErrNoUnit) {
			res.Outcome = OutcomeBusy
		}
		return res
	}
	defer p.printed()
	crashpoint.Hit(crashpoint.RunnerProgram)
	// Ends with the program, which ends or is killed below.
	done := make(chan struct{})
	var ended error
	go func() {
		ended = p.cmd.Wait()
		close(done)
	}()
	tick := time.NewTicker(logInterval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			p.unit.Kill(killGrace) // With what it left behind.
			if res := r.judge(step, x, ended); res.Outcome == "" || !r.stopping(ended) {
				return res
			}
			return r.stopped(step)
		case <-tick.C:
			r.log.trim()
		case <-late:
			r.end(x, p, done)
			return r.hung(step)
		case <-r.stop:
			r.end(x, p, done)
			return r.stopped(step)
		}
	}
}

// end ends a program before its time, with all that is in its unit, and where it is
// contained all that came from it: what escaped its group could hold the lock that the way
// back needs.
func (r *run) end(x *driver.Exec, p *process, done <-chan struct{}) {
	endGroup(p.cmd.Process.Pid, done, r.log)
	select {
	case <-done:
	default: // It has left its group.
		_ = p.cmd.Process.Kill()
		select {
		case <-done:
		case <-time.After(killGrace):
		}
	}
	if !p.unit.Kill(killGrace) {
		_, _ = fmt.Fprintf(r.log.file, "fleet runner: something that %s started survives SIGKILL\n", x.Argv[0])
	}
	if !x.Contained {
		return
	}
	if left := endDescendants(); left > 0 {
		_, _ = fmt.Fprintf(r.log.file, "fleet runner: %d processes of %s survive SIGKILL\n", left, x.Argv[0])
	}
}

func (r *run) judge(step int, x *driver.Exec, err error) Result {
	if err == nil {
		return Result{}
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		return Result{Outcome: OutcomeError, Message: fmt.Sprintf("step %d: waiting for %s: %v", step+1, x.Argv[0], err)}
	}
	code := exit.ExitCode()
	if slices.Contains(x.OKCodes, code) {
		return Result{}
	}
	how := "ended with exit code " + strconv.Itoa(code)
	if text := x.Meanings[code]; text != "" {
		how += " (" + text + ")"
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		how = "was ended by signal " + unix.SignalName(ws.Signal())
	}
	return Result{Outcome: OutcomeExit, ExitCode: code, Message: fmt.Sprintf("step %d: %s %s", step+1, filepath.Base(x.Argv[0]), how)}
}

// endGroup ends a process group: SIGTERM, a grace, SIGKILL. It returns when its
// leader was reaped and no member is left, or after SIGKILL, which a process
// stuck in the kernel survives for a while: it isn't waited for without end.
func endGroup(pgid int, done <-chan struct{}, log *boundedLog) {
	_ = unix.Kill(-pgid, unix.SIGTERM)
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	reaped := false
	for {
		select {
		case <-done:
			reaped, done = true, nil
		case <-tick.C:
			log.trim()
			// The number stays taken while the group has members, so that
			// nobody else can be meant.
			if reaped && errors.Is(unix.Kill(-pgid, 0), unix.ESRCH) {
				return
			}
		case <-grace.C:
			_ = unix.Kill(-pgid, unix.SIGKILL)
			if !reaped {
				select {
				case <-done:
				case <-time.After(killGrace):
				}
			}
			return
		}
	}
}
