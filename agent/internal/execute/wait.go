package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

// Wait waits for a run's end, whoever started it. A run whose runner died
// without a result is OutcomeLost, after what is left of its session was
// killed, so that a rollback doesn't run beside it. ErrAbsent where it never
// began; the context's cause where that ends first (the run goes on).
func (e *Executor) Wait(ctx context.Context, id string) (Result, error) {
	if err := checkID(id); err != nil {
		return Result{}, err
	}
	if err := e.waitChild(ctx, id); err != nil {
		return Result{}, fmt.Errorf("waiting for run %s: %w", id, err)
	}
	for {
		st, err := e.Status(id)
		if err != nil {
			return Result{}, fmt.Errorf("waiting for run %s: %w", id, err)
		}
		switch st.Phase {
		case PhaseDone:
			return st.Result, nil
		case PhaseAbsent:
			return Result{}, fmt.Errorf("waiting for run %s: %w", id, ErrAbsent)
		case PhaseLost:
			return e.lost(ctx, id)
		case PhaseRunning:
		}
		select {
		case <-ctx.Done():
			return Result{}, fmt.Errorf("waiting for run %s: %w", id, context.Cause(ctx))
		case <-time.After(e.poll):
		}
	}
}

// waitChild waits for a runner of this process without polling; for others it
// returns at once. Also when several wait for the same one.
func (e *Executor) waitChild(ctx context.Context, id string) error {
	e.mu.Lock()
	c := e.children[id]
	if c == nil {
		e.mu.Unlock()
		return nil
	}
	// A descriptor of its own, with a deadline of its own.
	alive, err := c.dup()
	e.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() { _ = alive.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = alive.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	_, err = alive.Read(b[:])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET):
		e.reap(id, true)
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// reap collects a runner that ended; it waits for the end where block is set.
func (e *Executor) reap(id string, block bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reapLocked(id, block)
}

func (e *Executor) reapLocked(id string, block bool) {
	c := e.children[id]
	if c == nil {
		return
	}
	options := syscall.WNOHANG
	if block {
		options = 0
	}
	if c.wait(options) {
		return
	}
	_ = c.alive.Close()
	delete(e.children, id)
}

// wait collects a runner that ended, once; still says that it has not.
func (c *child) wait(options int) (still bool) {
	if c.collected { // Its number may be another process's by now.
		return false
	}
	if c.service != nil {
		c.collected = c.gone(0)
		if c.collected {
			_ = c.service.Release()
		}
		return !c.collected
	}
	pid, err := syscall.Wait4(c.pid, nil, options, nil)
	for errors.Is(err, syscall.EINTR) {
		pid, err = syscall.Wait4(c.pid, nil, options, nil)
	}
	still = err == nil && pid == 0
	c.collected = !still
	return still
}

// ended says whether a runner has, and collects it.
func (c *child) ended() bool { return !c.wait(syscall.WNOHANG) }

// dup gives a second descriptor for the runner's liveness.
func (c *child) dup() (*os.File, error) {
	fd := -1
	err := control(c.alive, func(old int) (err error) {
		fd, err = unix.FcntlInt(uintptr(old), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // A descriptor.
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "runner"), nil
}

// lost ends what a dead runner left running.
func (e *Executor) lost(ctx context.Context, id string) (Result, error) {
	res := Result{
		Outcome: OutcomeLost,
		Message: "the runner died before the end; how much was done is unknown",
	}
	var s started
	if err := readJSON(e.path(id), fileStarted, &s); err != nil {
		// Without the process id there is nobody to look for.
		e.log.Warn("reading what a lost run started failed", "run", id, "error", err)
		return res, nil
	}
	res.Started = s.Time
	if s.PID <= 1 || s.BootID != bootID() {
		return res, nil // a reboot ended them all
	}
	n, err := endSession(ctx, s.PID)
	n += contain.EndNamed(id, killGrace) // Of users, in units of their own.
	if n > 0 {
		e.log.Warn("ended what a lost run left running", "run", id, "processes", n)
	}
	if err != nil {
		return Result{}, fmt.Errorf("ending what lost run %s left running: %w", id, err)
	}
	return res, nil
}

// Prune removes the directories of runs that neither run nor are kept, and cuts
// the logs of kept ones back to their bound, which a service that kept its
// activation's output may have grown. keep is asked once the runs are listed:
// what is on record by then covers each of them, and younger ones are left
// alone.
func (e *Executor) Prune(keep func(runs []string) []string) error {
	e.mu.Lock() // no run begins meanwhile
	defer e.mu.Unlock()
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return fmt.Errorf("pruning runs: %w", err)
	}
	var runs []string
	for _, entry := range entries {
		if checkID(entry.Name()) == nil && entry.IsDir() {
			runs = append(runs, entry.Name())
		}
	}
	kept := keep(runs)
	var errs []error
	if e.units != nil {
		e.units.Manager.Clear(context.Background())
	}
	if e.waiting != nil && !e.waiting.waits() { // It waited for too long.
		e.dismiss()
	}
	for _, id := range runs {
		e.reapLocked(id, false)
		st, err := status(e.path(id))
		switch {
		case slices.Contains(kept, id):
			if fi, err := os.Stat(e.Log(id)); err == nil && fi.Size() > MaxLogBytes+int64(len(cutNote)) {
				errs = append(errs, os.Truncate(e.Log(id), MaxLogBytes))
			}
		case err != nil: // It may run.
			errs = append(errs, err)
		case st.Phase != PhaseRunning:
			crashpoint.Hit(crashpoint.RunRemove)
			errs = append(errs, os.RemoveAll(e.path(id)))
			crashpoint.Hit(crashpoint.RunRemoved)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pruning runs: %w", err)
	}
	return nil
}
