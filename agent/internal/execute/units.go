package execute

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
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
	broken := brokenSince(before, after, own)
	if broken == "" {
		return Result{}
	}
	res.Message += ": units that failed: " + broken
	return res
}

// brokenSince names the units that failed since; empty for none.
func brokenSince(before, after map[string]string, own []string) string {
	var broken []string
	for unit, state := range after {
		if _, was := before[unit]; !was && !slices.Contains(own, unit) && !fleets(unit) && !ofUsers(unit) && (state == "failed" || endedBadly(unit)) {
			broken = append(broken, unit)
		}
	}
	slices.Sort(broken)
	if n := len(broken); n > maxNamedUnits {
		broken = append(broken[:maxNamedUnits], fmt.Sprintf("and %d more", n-maxNamedUnits))
	}
	return strings.Join(broken, ", ")
}

// ofUsers says whether a unit is a user's to fail: one who kills their own manager, or
// whose session crashes, must not have a host go back.
func ofUsers(unit string) bool {
	for _, prefix := range []string{"user@", "user-", "session-"} {
		if strings.HasPrefix(unit, prefix) {
			return true
		}
	}
	return false
}

// HostUnits are the units of a host that is booted, where no program's exit code tells
// that some of them failed. Own are those that are no evidence.
type HostUnits struct{ Own []string }

// Troubled lists the units that are failed, or wait to be started again.
func (HostUnits) Troubled(context.Context) ([]string, error) {
	units, err := troubledUnits()
	return slices.Sorted(maps.Keys(units)), err
}

// Broken names, for people, those that failed in this boot and were not troubled before;
// over says that the boot is, so that there will be no others of it.
func (u HostUnits) Broken(ctx context.Context, before []string) (broken string, over bool, err error) {
	err = manager.Ask(ctx, func(ctx context.Context, c *systemd.Conn) (err error) {
		over, err = c.Booted(ctx)
		return err //nolint:wrapcheck // It says what failed.
	})
	if err != nil || !over {
		return "", false, err //nolint:wrapcheck // As above.
	}
	after, err := troubledUnits()
	if err != nil {
		return "", false, err
	}
	was := make(map[string]string, len(before))
	for _, unit := range before {
		was[unit] = ""
	}
	return brokenSince(was, after, u.Own), true, nil
}

// fleets says whether a unit is an activation's, or of a program that a user runs.
func fleets(unit string) bool {
	return strings.HasPrefix(unit, unitPrefix) || strings.HasPrefix(unit, contain.UnitPrefix)
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
