package deadman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/service"
)

// onMac says that launchd is the service manager, and units are its jobs' labels.
const onMac = runtime.GOOS == "darwin"

const (
	// idle is how long a process waits for an order: builds take a while.
	idle = 10 * time.Minute
	// present is how often it looks whether its directory is still there.
	present = time.Second
	// startAttempts bounds the attempts, startPause apart, at beginning one.
	startAttempts, startPause = 60, 5 * time.Second
	// restartAttempts is fewer: where there is no such unit any more, the next
	// activation must not wait for long for this switch to end.
	restartAttempts = 3
	// slack is what an attempt may take beyond its own deadline.
	slack = time.Minute
)

// Main is the whole of a process that is a switch: it waits in dir for an order
// and for its deadline. runner is the command that carries out a run. It returns
// the exit code.
func Main(dir string, runner []string) int {
	// What ends the agent's session, or is meant for it, is nothing to the switch.
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	ctx, heard := untilTold()
	defer heard()
	p := process{
		dir: dir, runner: runner, now: time.Now, out: os.Stderr, //nolint:forbidigo // A process of its own: this is where time comes in.
		restart: restartUnit, stopping: systemd.Address("").Stopping, idle: idle, pause: startPause,
	}
	if err := p.run(ctx); err != nil && ctx.Err() == nil {
		_, _ = fmt.Fprintf(os.Stderr, "fleet dead-man switch: %v\n", err)
		return 1
	}
	return 0
}

// process is a switch that waits.
type process struct {
	dir     string
	runner  []string
	now     func() time.Time // for people
	out     io.Writer
	restart func(ctx context.Context, unit string) error
	start   func(ctx context.Context, unit string) error // after a boot
	// stopping says whether the host is shut down.
	stopping func(ctx context.Context) bool
	idle     time.Duration
	pause    time.Duration // between attempts at beginning the way back
	// resumes says that the activation began before this boot: what is said to the
	// agent may fail, and on a full disk it does.
	resumes bool
	// longest bounds each deadline; 0 for no bound.
	longest time.Duration
}

func (p *process) run(ctx context.Context) error {
	lock, err := os.OpenFile(filepath.Join(p.dir, fileLock), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return fmt.Errorf("waiting: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil // Another one waits.
		}
		return fmt.Errorf("waiting: %w", err)
	}
	// What one before this said is not so any more; whoever can wake this one finds
	// that gone.
	for _, name := range []string{fileArmed, fileLeave} {
		if err := os.Remove(filepath.Join(p.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("waiting: %w", err)
		}
	}
	pipe, err := openWake(p.dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	woken := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		read(ctx, pipe, woken)
	}()
	defer func() {
		cancel()
		_ = pipe.Close()
		<-done
	}()
	return p.wait(ctx, woken)
}

// read passes on that the switch was woken.
func read(ctx context.Context, pipe io.Reader, woken chan<- struct{}) {
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		if _, err := pipe.Read(buf); err != nil {
			return
		}
		select {
		case woken <- struct{}{}:
		default:
		}
	}
}

// wait waits for an order, and for its deadline, in time awake: the timers of Go's
// runtime stand still while the machine sleeps (Linux: CLOCK_MONOTONIC, macOS:
// mach_absolute_time).
func (p *process) wait(ctx context.Context, woken <-chan struct{}) error {
	due := time.NewTimer(p.idle)
	defer due.Stop()
	tick := time.NewTicker(present)
	defer tick.Stop()
	var armed *Order
	for {
		o, err := readOrder(p.dir)
		if err != nil {
			return err
		}
		var v Verdict
		if o != nil {
			if v, err = verdictOn(p.dir, o.ID); err != nil {
				return err
			}
		}
		switch {
		case o != nil && v == Fired && p.unfinished(o):
			return p.fire(ctx, o) // A switch before this one began, and died.
		case armed != nil && (o == nil || v != ""):
			return nil // It is decided.
		case armed == nil && (o == nil || v != "") && p.dismissed():
			return nil
		case o != nil && v == "" && (armed == nil || o.ID != armed.ID || o.Sequence != armed.Sequence):
			armed = o
			after := o.After
			if p.longest > 0 {
				after = min(after, p.longest)
			}
			due.Reset(after)
			if err := os.WriteFile(filepath.Join(p.dir, fileArmed), []byte(armedText(*o)), 0o600); err != nil {
				if !p.resumes {
					return fmt.Errorf("saying that it is armed: %w", err)
				}
				p.say("saying that it is armed: %v", err)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-woken:
		case <-tick.C:
			if _, err := os.Stat(p.dir); errors.Is(err, os.ErrNotExist) {
				return nil
			}
		case <-due.C:
			if armed == nil {
				return nil
			}
			return p.fire(ctx, armed)
		}
	}
}

// dismissed says whether a process without an order is to end.
func (p *process) dismissed() bool {
	_, err := os.Lstat(filepath.Join(p.dir, fileLeave))
	return err == nil
}

func (p *process) unfinished(o *Order) bool {
	_, err := os.Lstat(filepath.Join(p.dir, fileOutcome+o.ID))
	return errors.Is(err, os.ErrNotExist)
}

// fire takes the profile back, unless somebody decided before.
func (p *process) fire(ctx context.Context, o *Order) error {
	switch v, err := claim(p.dir, o.ID, Fired); {
	case err != nil:
		return err
	case v != Fired:
		return nil
	}
	crashpoint.Hit(crashpoint.SwitchFired)
	p.say("%s was not verified in time: going back", o.ID)
	out := p.goBack(ctx, o)
	if ctx.Err() != nil && !out.Back {
		// Whoever waits after the boot goes on, or after this one.
		p.say("%s: told to stop on the way back", o.ID)
		return context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
	p.say("%s: back: %t %s", o.ID, out.Back, out.Detail)
	data, err := json.Marshal(out)
	if err == nil {
		err = atomicfile.WriteFile(filepath.Join(p.dir, fileOutcome+o.ID), data, 0o600)
	}
	crashpoint.Hit(crashpoint.SwitchBack)
	if o.Unit != "" {
		if rerr := p.patiently(ctx, restartAttempts, func() error { return p.restart(ctx, o.Unit) }); rerr != nil {
			p.say("restarting %s failed: %v", o.Unit, rerr)
		}
	}
	if err != nil {
		return fmt.Errorf("recording what came of it: %w", err)
	}
	return nil
}

// goBack ends the activation and carries out the way back, as often as the agent
// would try it. Attempts of the agent count.
func (p *process) goBack(ctx context.Context, o *Order) Outcome {
	if o.Rollback.IsZero() {
		return Outcome{Back: true}
	}
	var e *execute.Executor
	err := p.patiently(ctx, startAttempts, func() (err error) {
		e, err = execute.New(o.Runs, p.runner, execute.Options{Unit: o.Unit})
		return err
	})
	if err != nil {
		return Outcome{Detail: err.Error()}
	}
	if err := e.End(ctx, o.Activate); err != nil {
		p.say("ending the activation: %v", err)
	}
	detail := ""
	for _, id := range o.Back {
		res, err := p.attempt(ctx, e, o, id)
		switch {
		case err != nil:
			detail = err.Error()
		case res.Outcome == execute.OutcomeOK:
			return Outcome{Back: true}
		default:
			detail = res.Message
		}
		p.say("%s: %s", id, detail)
		if ctx.Err() != nil {
			break
		}
	}
	return Outcome{Detail: detail}
}

// patiently tries something again, so many times at most, that a full disk, say, or
// a systemd that is busy keeps from beginning: there is nobody else who would.
func (p *process) patiently(ctx context.Context, most int, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || n >= most {
			return err
		}
		p.say("%v; it is tried again", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(p.pause):
		}
	}
}

// attempt carries out the way back once, or waits for the attempt of that name
// that somebody began. One that ended before it began anything is none.
func (p *process) attempt(ctx context.Context, e *execute.Executor, o *Order, id string) (res execute.Result, err error) {
	began := p.patiently(ctx, startAttempts, func() error {
		if err := e.Start(ctx, id, o.Rollback, o.Env); err != nil && !errors.Is(err, execute.ErrExists) {
			return err //nolint:wrapcheck // It says what failed.
		}
		limited, cancel := context.WithTimeout(ctx, o.Rollback.Deadline+slack)
		defer cancel()
		if res, err = e.Wait(limited, id); errors.Is(err, execute.ErrAbsent) {
			return err //nolint:wrapcheck // As above.
		}
		if err != nil && (ctx.Err() == nil || p.stopping(context.WithoutCancel(ctx))) {
			// Too late; or before what it works on is unmounted.
			err = errors.Join(err, e.End(context.WithoutCancel(ctx), id))
		}
		return nil
	})
	if began != nil {
		return execute.Result{}, began
	}
	return res, err
}

func (p *process) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, "%s "+format+"\n", append([]any{p.now().UTC().Format(time.RFC3339)}, args...)...)
}

// restartUnit has the service manager start the agent's service anew, whatever state it is
// in.
func restartUnit(ctx context.Context, unit string) error {
	if onMac {
		return kickstart(ctx, service.Launchctl{}, unit, true)
	}
	return askSystemd(ctx, (*systemd.Conn).Restart, unit)
}

// startUnit has it start it where it does not run.
func startUnit(ctx context.Context, unit string) error {
	if onMac {
		return kickstart(ctx, service.Launchctl{}, unit, false)
	}
	return askSystemd(ctx, (*systemd.Conn).Start, unit)
}

func askSystemd(ctx context.Context, what func(*systemd.Conn, context.Context, string) error, unit string) error {
	return systemd.Address("").Ask(ctx, func(ctx context.Context, c *systemd.Conn) error { return what(c, ctx, unit) }) //nolint:wrapcheck // It says what failed.
}
