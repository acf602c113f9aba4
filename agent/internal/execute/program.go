package execute

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// busyPause is between two attempts at a program that found a lock held.
const busyPause = time.Second

// program runs a step's program with all that its exit codes mean; the zero
// Result means that it ended well.
func (r *run) program(step int, x *driver.Exec, late <-chan time.Time) Result {
	if x.Unless != nil && leadsTo(x.Unless) {
		return Result{}
	}
	var before map[string]string
	var unknown error
	if x.FailedUnitsCode != 0 {
		before, unknown = r.before.wait(step)
	}
	for {
		res := r.whole(step, x, late)
		switch {
		case res.Outcome == OutcomeBusy:
			if res, ended := r.busy(step, x, late, res.Message); ended {
				return res
			}
		case res.Outcome != OutcomeExit:
			return res
		case slices.Contains(x.BusyCodes, res.ExitCode):
			if res, ended := r.busy(step, x, late, "it found a lock held by something else"); ended {
				return res
			}
		case x.FailedUnitsCode != 0 && res.ExitCode == x.FailedUnitsCode:
			return judgeUnits(res, before, unknown, r.req.Unit, systemd.OwnUnit())
		default:
			return res
		}
	}
}

// busy waits until the program is worth another attempt; why says what kept it from one.
func (r *run) busy(step int, x *driver.Exec, late <-chan time.Time, why string) (res Result, ended bool) {
	again, free := r.clock.After(busyPause)
	defer free()
	select {
	case <-again:
		return Result{}, false
	case <-late:
		return Result{Outcome: OutcomeBusy, Step: step, Message: fmt.Sprintf(
			"step %d: %s was not carried out until the deadline of %s: %s",
			step+1, filepath.Base(x.Argv[0]), r.req.Action.Deadline, why)}, true
	case <-r.stop:
		return r.stopped(step), true
	case <-r.told: // A commit comes to its end, but what can't begin does not begin now.
		return r.stopped(step), true
	}
}

// leadsTo says whether a link leads to its target, over any number of links.
func leadsTo(l *driver.Link) bool {
	is, err := filepath.EvalSymlinks(l.Path)
	if err != nil {
		return false
	}
	want, err := filepath.EvalSymlinks(l.Target)
	return err == nil && is == want
}
