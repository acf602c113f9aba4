package execute

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// maxNamedUnits bounds those that a message names.
const maxNamedUnits = 8

// manager is the host's systemd; another one in tests.
var manager systemd.Address

// judgeUnits tells a program that broke a unit from one that only found some
// unit failed. Where the units can't be told, the program's word stands.
//
// Units that are its own are no evidence, such as the agent's: an agent that was killed
// while its program ran waits to be started again just then, and a program that really
// breaks the agent leaves nobody to read this verdict. Nor are other activations, which
// answer for themselves.
func judgeUnits(res Result, before map[string]string, unknown error, own ...string) Result {
	after, err := troubledUnits()
	if err := errors.Join(unknown, err); err != nil {
		res.Message += ": which units failed can't be told: " + err.Error()
		return res
	}
	var broken []string
	for unit, state := range after {
		if _, was := before[unit]; !was && !slices.Contains(own, unit) && !strings.HasPrefix(unit, unitPrefix) && (state == "failed" || endedBadly(unit)) {
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

// troubledUnits lists the units that are failed, and those that wait to be started
// again, with the state that they are in.
func troubledUnits() (units map[string]string, err error) {
	err = manager.Ask(context.Background(), func(ctx context.Context, c *systemd.Conn) (err error) {
		units, err = c.Troubled(ctx)
		return err //nolint:wrapcheck // It says what failed.
	})
	return units, err //nolint:wrapcheck // As above.
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
// syncs, which no unit sees. nil where there is nothing to list.
func listBefore(steps []driver.Step) *unitsBefore {
	i := slices.IndexFunc(steps, func(s driver.Step) bool { return s.Exec != nil })
	if i < 0 || steps[i].Exec.FailedUnitsCode == 0 || steps[i].Exec.Unless != nil {
		return nil
	}
	b := &unitsBefore{step: i, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.units, b.err = troubledUnits()
	}()
	return b
}

// wait returns the list for a step, made now where it was not begun before.
func (b *unitsBefore) wait(step int) (map[string]string, error) {
	if b == nil || b.step != step {
		return troubledUnits()
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
func endedBadly(unit string) bool {
	var status int32
	err := manager.Ask(context.Background(), func(ctx context.Context, c *systemd.Conn) (err error) {
		status, err = c.MainStatus(ctx, unit)
		return err //nolint:wrapcheck // It says what failed.
	})
	return err != nil || status != 0
}
