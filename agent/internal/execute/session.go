package execute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// leaderLooks bounds the looks, leaderPause apart, at a leader that is about to be gone.
const (
	leaderLooks = 100
	leaderPause = 10 * time.Millisecond
)

// endSession kills the processes of a session whose leader is dead: SIGTERM, a
// grace, SIGKILL. It says how many there were. Where a process bears the
// session's number, and goes on to, the leader lives or the number was given away (it
// isn't while the session has members): then nothing is done.
func endSession(ctx context.Context, sid int) (int, error) {
	pids, err := session(sid)
	// One that was killed has let go of its files, and so of its run's lock, before the
	// last of its threads is gone.
	for n := 0; n < leaderLooks && err == nil && slices.Contains(pids, sid); n++ {
		if err := pause(ctx, leaderPause); err != nil {
			return 0, err
		}
		pids, err = session(sid)
	}
	if err != nil || len(pids) == 0 || slices.Contains(pids, sid) {
		return 0, err
	}
	n := len(pids)
	if err := signalAll(pids, unix.SIGTERM); err != nil {
		return n, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	grace, last := time.NewTimer(killGrace), time.NewTimer(2*killGrace)
	defer grace.Stop()
	defer last.Stop()
	kill := false
	for {
		select {
		case <-ctx.Done():
			return n, context.Cause(ctx)
		case <-grace.C:
			kill = true
		case <-last.C:
			return n, fmt.Errorf("%d processes survive SIGKILL", len(pids))
		case <-tick.C:
		}
		if pids, err = session(sid); err != nil || len(pids) == 0 {
			return n, err
		}
		if kill { // each time anew: some may have been born in between
			if err := signalAll(pids, unix.SIGKILL); err != nil {
				return n, err
			}
		}
	}
}

func signalAll(pids []int, sig unix.Signal) error {
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending process %d: %w", pid, err)
		}
	}
	return nil
}

// session lists the live processes of a session, and the one that bears its
// number whatever session that is in.
func session(sid int) ([]int, error) {
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var in []int
	for _, pid := range all {
		if pid == sid {
			in = append(in, pid)
		} else if s, err := unix.Getsid(pid); err == nil && s == sid {
			in = append(in, pid)
		}
	}
	return in, nil
}
