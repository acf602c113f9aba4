package execute

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

const (
	// busyPause is between two attempts at a program that found a lock held.
	busyPause = time.Second
	// unitsTimeout bounds one look at the failed units.
	unitsTimeout = 10 * time.Second
	// maxUnits bounds the failed units that are told from each other.
	maxUnits = 10_000
	// maxNamedUnits bounds those that a message names.
	maxNamedUnits = 8
)

// program runs a step's program with all that its exit codes mean; the zero
// Result means that it ended well.
func (r *run) program(step int, x *driver.Exec, late <-chan time.Time) Result {
	if x.Unless != nil && leadsTo(x.Unless) {
		return Result{}
	}
	var before map[string]bool
	var unknown error
	if x.FailedUnitsCode != 0 {
		before, unknown = failedUnits(x.Env)
	}
	for {
		res := r.exec(step, x, late)
		switch {
		case res.Outcome != OutcomeExit:
			return res
		case slices.Contains(x.BusyCodes, res.ExitCode):
			if res, ended := r.busy(step, x, late); ended {
				return res
			}
		case x.FailedUnitsCode != 0 && res.ExitCode == x.FailedUnitsCode:
			return judgeUnits(res, x.Env, before, unknown)
		default:
			return res
		}
	}
}

// busy waits until the program is worth another attempt.
func (r *run) busy(step int, x *driver.Exec, late <-chan time.Time) (res Result, ended bool) {
	again, free := r.clock.After(busyPause)
	defer free()
	select {
	case <-again:
		return Result{}, false
	case <-late:
		return Result{Outcome: OutcomeBusy, Step: step, Message: fmt.Sprintf(
			"step %d: %s found a lock held by something else until the deadline of %s",
			step+1, filepath.Base(x.Argv[0]), r.req.Action.Deadline)}, true
	case <-r.stop:
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

// judgeUnits tells a program that broke a unit from one that only found some
// unit failed. Where the units can't be told, the program's word stands.
func judgeUnits(res Result, env []string, before map[string]bool, unknown error) Result {
	after, err := failedUnits(env)
	if err := errors.Join(unknown, err); err != nil {
		res.Message += ": which units failed can't be told: " + err.Error()
		return res
	}
	var broken []string
	for unit := range after {
		if !before[unit] {
			broken = append(broken, unit)
		}
	}
	if len(broken) == 0 {
		return Result{}
	}
	slices.Sort(broken)
	if n := len(broken); n > maxNamedUnits {
		broken = append(broken[:maxNamedUnits], fmt.Sprintf("and %d more", n-maxNamedUnits))
	}
	res.Message += ": units that failed: " + strings.Join(broken, ", ")
	return res
}

// failedUnits lists the failed units of the system's systemd.
func failedUnits(env []string) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), unitsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, systemctl(env), "list-units", "--state=failed", "--all", "--full", "--plain", "--no-legend", "--no-pager")
	cmd.Env = append([]string{"SYSTEMD_COLORS=0"}, env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("listing failed units: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("listing failed units: %w", err)
	}
	units := map[string]bool{}
	lines := bufio.NewScanner(out)
	for lines.Scan() && len(units) < maxUnits {
		if f := strings.Fields(lines.Text()); len(f) > 0 {
			units[f[0]] = true
		}
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		return nil, fmt.Errorf("listing failed units: %w", err)
	}
	return units, nil
}

// systemctl finds the program by the PATH of the step, which need not be that
// of the runner.
func systemctl(env []string) string {
	for _, v := range slices.Backward(env) {
		path, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(path) {
			file := filepath.Join(dir, "systemctl")
			if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return file
			}
		}
		break
	}
	return "systemctl"
}
