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
	// unitsTimeout bounds one look at the failed units.
	unitsTimeout = 10 * time.Second
	// A systemd that doesn't answer is asked again after these pauses, 3 s in all:
	// one that a switch has replaced by a newer one listens again when it has read
	// back what it knew.
	firstPause, longestPause = 100 * time.Millisecond, 1600 * time.Millisecond
	// maxUnitsBytes bounds what is read about failed units.
	maxUnitsBytes = 1 << 20
	// maxNamedUnits bounds those that a message names.
	maxNamedUnits = 8
)

// judgeUnits tells a program that broke a unit from one that only found some
// unit failed. Where the units can't be told, the program's word stands.
//
// The agent's own unit, own, is no evidence: an agent that was killed while its
// program ran waits to be started again just then, and a program that really
// breaks the agent leaves nobody to read this verdict.
func judgeUnits(res Result, env []string, before map[string]string, unknown error, own string) Result {
	after, err := failedUnits(env)
	if err := errors.Join(unknown, err); err != nil {
		res.Message += ": which units failed can't be told: " + err.Error()
		return res
	}
	var broken []string
	for unit, state := range after {
		if _, was := before[unit]; !was && unit != own && (state == "failed" || endedBadly(env, unit)) {
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

// OwnUnit is the systemd service that this process belongs to, as the agent does
// that started it; empty where it is in none, or none can be told.
func OwnUnit() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	return unitOf(string(b))
}

// unitOf reads what the kernel says of a process's control groups: lines of
// number:controllers:path. A unit's group is named after it; what a service
// divides its own into is below.
func unitOf(cgroup string) string {
	var path string
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		// systemd's own hierarchy, or where there is only one.
		if f[1] == "name=systemd" || f[0] == "0" && path == "" {
			path = f[2]
		}
	}
	for _, name := range slices.Backward(strings.Split(path, "/")) {
		switch filepath.Ext(name) {
		case ".service":
			return name
		case ".scope", ".slice":
			return ""
		}
	}
	return ""
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

// unitsBefore is a list of the failed units before a step.
type unitsBefore struct {
	step  int
	done  chan struct{} // closed when the rest is set
	units map[string]string
	err   error
}

// listBefore begins to list the failed units for the first program of an action,
// where that will be compared with them: what comes before it are links and
// syncs, which no unit sees, and systemctl takes longer than they do. nil where
// there is nothing to list.
func listBefore(steps []driver.Step) *unitsBefore {
	i := slices.IndexFunc(steps, func(s driver.Step) bool { return s.Exec != nil })
	if i < 0 || steps[i].Exec.FailedUnitsCode == 0 || steps[i].Exec.Unless != nil {
		return nil
	}
	b := &unitsBefore{step: i, done: make(chan struct{})}
	env := steps[i].Exec.Env
	go func() {
		defer close(b.done)
		b.units, b.err = failedUnits(env)
	}()
	return b
}

// wait returns the list for a step, made now where it was not begun before.
func (b *unitsBefore) wait(step int, env []string) (map[string]string, error) {
	if b == nil || b.step != step {
		return failedUnits(env)
	}
	<-b.done
	return b.units, b.err
}

// end waits until nothing is listed any more.
func (b *unitsBefore) end() {
	if b != nil {
		<-b.done
	}
}

// endedBadly says whether a unit that is to be started again had failed, as
// switch-to-configuration finds out.
func endedBadly(env []string, unit string) bool {
	out, err := askSystemd(env, "show", "--property=ExecMainStatus", "--value", "--", unit)
	return err != nil || strings.TrimSpace(out) != "0"
}

// askSystemd runs systemctl and returns a bounded part of what it prints. It
// asks again for a while where that fails: a release must not be blamed for it.
func askSystemd(env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), unitsTimeout)
	defer cancel()
	program := systemctl(env)
	for pause := firstPause; ; pause *= 2 {
		out, err := runBounded(ctx, env, program, args...)
		if err == nil {
			return out, nil
		}
		if errors.Is(err, exec.ErrNotFound) || ctx.Err() != nil || pause > longestPause {
			return "", fmt.Errorf("asking systemctl: %w", err)
		}
		time.Sleep(pause)
	}
}

func runBounded(ctx context.Context, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"SYSTEMD_COLORS=0", "SYSTEMD_PAGER="}, env...)
	cmd.WaitDelay = time.Second
	out := &firstBytes{most: maxUnitsBytes}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return "", err //nolint:wrapcheck // The caller says what was asked.
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
