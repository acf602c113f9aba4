package execute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// Descriptors that the runner inherits beside the standard ones.
const (
	lockFD  = 3
	aliveFD = 4
)

// Options of New.
type Options struct {
	// Log; default none.
	Log *slog.Logger
	// Poll is the pause between looks at a run that another process started;
	// default 50 ms, at least 10 ms.
	Poll time.Duration
	// Unit is the agent's own service: that it is in trouble while a program runs is
	// no evidence against that program. Default the one that the runner is in.
	Unit string
	// Units has each runner be a service of its own; nil for processes of this
	// process's own service.
	Units *Units
}

// Executor starts runs and knows where they are. Safe for concurrent use.
type Executor struct {
	dir    string
	runner []string
	log    *slog.Logger
	poll   time.Duration
	unit   string
	units  *Units

	mu       sync.Mutex // guards what follows, and starting
	children map[string]*child
	waiting  *waiting // nil for none
	// unitsFailed is when the service manager last failed to start a runner; zero for never.
	unitsFailed time.Time
}

// child is a runner that this process started.
type child struct {
	pid int
	// alive reads end of file when the runner is gone: it holds the other end
	// and never writes.
	alive *os.File
	// service is the process where the service manager started it: then it is not a
	// child, and nobody here collects it. nil for a child.
	service *os.Process
	// collected says that its end was: then pid is nobody's.
	collected bool
}

// New makes an executor whose runs live below dir. runner is the command, an
// absolute path first, that calls RunAction with the argument appended to it.
func New(dir string, runner []string, o Options) (*Executor, error) {
	if len(runner) == 0 || !filepath.IsAbs(runner[0]) {
		return nil, fmt.Errorf("making executor: runner %q: want an absolute path", runner)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Poll == 0 {
		o.Poll = 50 * time.Millisecond
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making executor: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("making executor: %w", err)
	}
	if o.Units != nil {
		o.Units.clear()
	}
	return &Executor{
		dir: dir, runner: slices.Clone(runner), log: o.Log, poll: max(o.Poll, 10*time.Millisecond), unit: o.Unit, units: o.Units,
		children: map[string]*child{},
	}, nil
}

func (e *Executor) path(id string, name ...string) string {
	return filepath.Join(append([]string{e.dir, id}, name...)...)
}

// Log is the path of a run's output; the file need not exist.
func (e *Executor) Log(id string) string { return e.path(id, fileLog) }

// Start begins a run. When it returns nil a runner was started for it, or one that
// waited has it, and goes on whatever becomes of this process. extraEnv is put in front of each program's own environment.
// ErrExists where a run of that id began before: ask Status. After any other
// error nothing was done, and Start may be tried again.
func (e *Executor) Start(ctx context.Context, id string, a driver.Action, extraEnv []string) error {
	return e.begin(ctx, request{ID: id, Action: a, Env: extraEnv, Unit: e.unit})
}

// StartCommit is Start for what is better done than begun, such as what makes a system
// the one that boots: where the host is shut down meanwhile, that waits for its end,
// finishWithin at most.
func (e *Executor) StartCommit(ctx context.Context, id string, a driver.Action, extraEnv []string) error {
	return e.begin(ctx, request{ID: id, Action: a, Env: extraEnv, Unit: e.unit, Finish: true})
}

func (e *Executor) begin(ctx context.Context, req request) error {
	id, a := req.ID, req.Action
	if err := checkID(id); err != nil {
		return err
	}
	if err := a.Validate(); err != nil {
		return fmt.Errorf("starting run %s: %w", id, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("starting run %s: %w", id, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.start(id, req); err != nil {
		return fmt.Errorf("starting run %s: %w", id, err)
	}
	return nil
}

func (e *Executor) start(id string, req request) (err error) {
	dir := e.path(id)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	crashpoint.Hit(crashpoint.RunMade)
	lock, err := takeLock(filepath.Join(dir, fileLock))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			giveLock(lock)
			return
		}
		_ = lock.Close() // unlocking would unlock the runner's copy too
	}()
	for _, name := range []string{fileStarted, fileResult} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(ErrExists, err)
		}
	}
	crashpoint.Hit(crashpoint.RunLocked)
	// Not durable: nobody reads it after a power loss. The runner sees to it that
	// the run itself is, before anything is done.
	if err := writeAction(dir, req); err != nil {
		return err
	}
	c, err := e.spawn(dir, lock)
	if err != nil {
		return err
	}
	e.children[id] = c
	e.log.Debug("started a run", "run", id, "pid", c.pid)
	return nil
}

// spawn has a runner carry out the run: the one that waits, or a new one. Where
// the service manager starts none, it is a process of this process's own service.
func (e *Executor) spawn(dir string, lock *os.File) (*child, error) {
	out, err := openLog(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	c := e.handOver(dir, lock, out)
	if c == nil {
		e.waiting = e.launch()
		c = e.handOver(dir, lock, out)
	}
	if c == nil {
		if err := e.goesDown(); err != nil {
			return nil, err
		}
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		defer func() { _ = null.Close() }()
		if c, err = e.process(dir, null, out, lock); err != nil {
			return nil, err
		}
	}
	crashpoint.Hit(crashpoint.RunStarted)
	return c, nil
}

// process starts a runner: own session, working directory "/", its third
// descriptor as given.
func (e *Executor) process(argument string, in, out, third *os.File) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }()
	argv := append(slices.Clone(e.runner), argument)
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{in, out, out, third, w},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("starting the runner: %w", err)
	}
	c := &child{pid: p.Pid, alive: r}
	// The child is reaped by its number: it outlives contexts and Waits.
	if err := p.Release(); err != nil {
		e.log.Debug("releasing a runner's handle failed", "error", err)
	}
	return c, nil
}

// openLog opens the log to append to it, and not to read: it may become the
// output of another user's program. Each opening has flags and a position of its
// own, which programs could change for all who share them.
func openLog(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, fileLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	return f, nil
}

// Status says where a run is.
func (e *Executor) Status(id string) (Status, error) {
	if err := checkID(id); err != nil {
		return Status{}, err
	}
	e.reap(id, false)
	return status(e.path(id))
}

func status(dir string) (Status, error) {
	// The lock first: once it is free, the files don't change any more.
	switch l, err := probeLock(filepath.Join(dir, fileLock)); {
	case err != nil:
		return Status{}, err
	case l == lockHeld:
		return Status{Phase: PhaseRunning}, nil
	}
	st := Status{Phase: PhaseDone}
	err := readJSON(dir, fileResult, &st.Result)
	if err == nil {
		return st, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return Status{}, err
	}
	switch _, err := os.Lstat(filepath.Join(dir, fileStarted)); {
	case err == nil:
		return Status{Phase: PhaseLost}, nil
	case !errors.Is(err, os.ErrNotExist):
		return Status{}, fmt.Errorf("looking at run: %w", err)
	}
	return Status{Phase: PhaseAbsent}, nil
}
