package execute

import (
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
	// maxUnitsBytes bounds what is read about failed units.
	maxUnitsBytes = 1 << 20
	// maxNamedUnits bounds those that a message names.
	maxNamedUnits = 8
)

// program runs a step's program with all that its exit codes mean; the zero
// Result means that it ended well.
func (r *run) program(step int, x *driver.Exec, late <-chan time.Time) Result {
	if x.Unless != nil && leadsTo(x.Unless) {
		return Result{}
	}
	var before map[string]string
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
func judgeUnits(res Result, env []string, before map[string]string, unknown error) Result {
	after, err := failedUnits(env)
	if err := errors.Join(unknown, err); err != nil {
		res.Message += ": which units failed can't be told: " + err.Error()
		return res
	}
	var broken []string
	for unit, state := range after {
		if _, was := before[unit]; !was && (state == "failed" || endedBadly(env, unit)) {
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

// failedUnits lists the units of the system's systemd that are failed, and those
// that wait to be started again, with the state that they are in.
func failedUnits(env []string) (map[string]string, error) {
	out, err := askSystemd(env, "list-units", "--state=failed,auto-restart,auto-restart-queued", "--all", "--full",
		"--plain", "--no-legend")
	if err != nil {
		return nil, fmt.Errorf("listing failed units: %w", err)
	}
	units := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 4 { // unit, load, active, sub, description
			units[f[0]] = f[3]
		}
	}
	return units, nil
}

// endedBadly says whether a unit that is to be started again had failed, as
// switch-to-configuration finds out.
func endedBadly(env []string, unit string) bool {
	out, err := askSystemd(env, "show", "--property=ExecMainStatus", "--value", "--", unit)
	return err != nil || strings.TrimSpace(out) != "0"
}

// askSystemd runs systemctl and returns a bounded part of what it prints.
func askSystemd(env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), unitsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, systemctl(env), args...)
	cmd.Env = append([]string{"SYSTEMD_COLORS=0", "SYSTEMD_PAGER="}, env...)
	cmd.WaitDelay = time.Second
	out := &firstBytes{most: maxUnitsBytes}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("asking systemctl: %w", err)
	}
	return out.String(), nil
}

// firstBytes keeps the first bytes that are written to it.
type firstBytes struct {
	strings.Builder

	most int
}

func (b *firstBytes) Write(p []byte) (int, error) {
	_, _ = b.Builder.Write(p[:min(len(p), max(b.most-b.Len(), 0))])
	return len(p), nil
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
