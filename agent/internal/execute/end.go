package execute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// End ends a run that is under way, whoever started it: its runner is told to stop,
// and then ends its program and leaves a result. One that does not stop is killed,
// and what it left of its session with it. For a run that never began or has ended
// it does nothing.
func (e *Executor) End(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := e.end(ctx, id); err != nil {
		return fmt.Errorf("ending run %s: %w", id, err)
	}
	return nil
}

func (e *Executor) end(ctx context.Context, id string) error {
	var s started
	for n := 0; ; n++ {
		if over, err := e.over(ctx, id); over || err != nil {
			return err
		}
		// Who holds the lock has not written yet who it is, for a moment.
		err := readJSON(e.path(id), fileStarted, &s)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) || n == 100 {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	if s.PID <= 1 || s.BootID != bootID() {
		return fmt.Errorf("its runner is process %d of boot %q", s.PID, s.BootID)
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.Kill(s.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("%s to its runner: %w", unix.SignalName(sig), err)
		}
		// A runner waits killGrace for its program, twice at worst.
		for range 3 * killGrace / (20 * time.Millisecond) {
			if over, err := e.over(ctx, id); over || err != nil {
				return err
			}
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return errors.New("it survives SIGKILL")
}

// over says whether a run goes on no more, and ends what a dead runner left.
func (e *Executor) over(ctx context.Context, id string) (bool, error) {
	st, err := e.Status(id)
	if err == nil && st.Phase == PhaseLost {
		_, err = e.lost(ctx, id)
	}
	return st.Phase != PhaseRunning, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
