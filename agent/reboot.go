package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// rebootWithin bounds how long an agent waits to be ended by the reboot that it asked
// for: other services may take a while to stop.
const rebootWithin = 5 * time.Minute

// errNotRebooted says that the host runs on.
var errNotRebooted = errors.New("the host was to be rebooted, and runs on")

// rebootNeeded is what is to be said of a profile that is as desired, but for what
// only a reboot puts in place; empty where that is nothing. The host's own drivers
// are asked, whichever of them made the profile: a person may have switched it.
func (w *worker) rebootNeeded() fleet.Reason {
	parts := w.bootParts()
	if len(parts) == 0 {
		return fleet.Reason{}
	}
	return fleet.Reason{
		Code: fleet.ReasonRebootNeeded, Message: "the desired generation runs, but for what only a reboot puts in place: " + strings.Join(parts, ", "),
		Hint: "reboot it when that suits: nothing reboots it by itself" + w.whyNotBooted(),
	}
}

// bootParts are what only a reboot puts in place of what runs.
func (w *worker) bootParts() (parts []string) {
	for _, name := range slices.Sorted(maps.Keys(w.a.drivers)) {
		more, err := driver.RebootNeeded(context.Background(), w.a.drivers[name], w.profile)
		if err != nil {
			w.log.Warn("whether the host needs a reboot can't be told", "driver", name, "error", err)
			continue
		}
		parts = append(parts, more...)
	}
	return parts
}

// whyNotBooted is why a generation was not booted although its policy permits that.
func (w *worker) whyNotBooted() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.facts.unbooted == "" {
		return ""
	}
	return " (" + w.facts.unbooted + ")"
}

// reboots says whether what is activated may be what boots: a reboot leads back then.
func (w *worker) reboots(to journal.Built) bool {
	_, ok := driver.BuiltIn(w.a.drivers[to.Driver]).(driver.Booter)
	return ok && w.a.config.Reboot != nil
}

// bootFor is the way to a generation through a boot, where it needs one and its policy
// and the host permit it; nil otherwise: then it is switched to, as far as that goes.
func (w *worker) bootFor(ctx context.Context, way route, policy fleet.Policy) (*driver.Boot, error) {
	may := policy.Reboot == fleet.RebootAsk || policy.Reboot == fleet.RebootAuto
	// From what is no place to return to, only a switch leads on.
	if !may || !w.reboots(way.to) || way.again || way.back.Path != way.from.Path || way.from.Path == way.to.Path || way.from.Driver != way.to.Driver && way.from.Ref.Digest != "" {
		return nil, nil //nolint:nilnil // No such way is no error.
	}
	boot, err := driver.BootOf(ctx, w.a.drivers[way.to.Driver], w.profile, way.from.Path, way.to.Path)
	if err != nil || len(boot.Parts) == 0 {
		return nil, err //nolint:wrapcheck // It says what failed.
	}
	why := boot.Cannot
	if why == "" && way.to.Secrets != way.from.Secrets {
		why = "its secrets are other ones, and would change before the boot"
	}
	if why == "" && policy.Reboot == fleet.RebootAuto {
		why = boot.Alone
	}
	w.mu.Lock()
	w.facts.unbooted = why
	w.mu.Unlock()
	if why != "" {
		return nil, nil //nolint:nilnil // As above.
	}
	return &boot, nil
}

// needsBoot finds out whether the staged target waits for a person to have the host
// rebooted.
func (w *worker) needsBoot(in *inputs, f facts) {
	p := in.state
	o, err := w.a.bound.Load().desired.Load(p.Staged.Ref.Digest)
	if err != nil || o.Generation.Doc.Policy.Reboot != fleet.RebootAsk {
		return
	}
	boot, err := w.bootFor(context.Background(), route{from: p.Current, to: p.Staged, back: p.Current, again: unsure(p)}, o.Generation.Doc.Policy)
	if err != nil {
		w.log.Warn("whether the host is to be booted can't be told", "error", err)
		return
	}
	if boot != nil {
		in.policy.RebootAsks = true
		in.observed.NeedsBoot = strings.Join(boot.Parts, ", ")
		in.observed.BootAllowed = f.bootAllowed == p.Staged.Ref.Digest
	}
}

// runs says whether what was built is what runs, or a specialisation of it, and what does
// otherwise; both are empty where that can't be told.
func (w *worker) runs(built journal.Built) (is bool, now string) {
	_, d, err := w.maker(built)
	if err == nil {
		now, err = d.Current(context.Background(), w.profile)
	}
	if err != nil {
		w.log.Warn("what runs can't be told", "error", err)
		return false, ""
	}
	if now == built.Path {
		return now != "", ""
	}
	if drifter, ok := driver.BuiltIn(d).(driver.Drifter); ok && now != "" {
		dr, err := drifter.Drift(context.Background(), w.profile, built.Path)
		if err == nil && dr.Runs == "" {
			return true, ""
		}
	}
	return false, now
}

// booted finds out what the host came up with, where it was booted since the activation
// began.
func (w *worker) booted(c *reconcile.Change, act *journal.Activation) {
	if c.Booted = act.BootID != "" && act.BootID != w.a.bootID; !c.Booted {
		return
	}
	c.CameUp, c.BootNow = w.runs(act.To)
	if c.CameUp && act.Boots && len(w.bootParts()) > 0 {
		c.CameUp, c.BootNow = false, "another kernel"
	}
}

// returned finds out how far the host is back.
func (w *worker) returned(c *reconcile.Change, act *journal.Activation) {
	asked, err := w.rebootAsked(act)
	if err != nil {
		// Never once more than it should.
		w.log.Error("whether the host was to be rebooted can't be told", "error", err)
		c.MayReboot = false
		return
	}
	c.Rebooted = asked.BootID != "" && asked.BootID != w.a.bootID
	switch {
	case asked.Times >= maxRebootAsks && !c.Rebooted && !w.rebooting.Load():
		c.MayReboot = false // That was asked for, and came to nothing.
	case c.Rebooted:
		is, now := w.runs(act.Back())
		c.Returned = is || now == ""
	case act.Boots && c.Run == reconcile.RunSucceeded && len(w.bootParts()) > 0:
		c.OldKernel = true
	case c.Run != reconcile.RunNone && c.Run != reconcile.RunRunning:
		c.MayReboot = w.bootsBack(act)
	}
}

// bootsBack says whether what boots is certainly what is gone back to.
func (w *worker) bootsBack(act *journal.Activation) bool {
	_, d, err := w.maker(act.Back())
	if err != nil {
		return false
	}
	dr, err := driver.DriftOf(context.Background(), d, w.profile, act.Back().Path)
	return err == nil && dr.Boots == ""
}

// reboot has the host rebooted, once nothing of another profile runs, or that has had its
// time: a user's program must not keep a host from being rebooted.
func (w *worker) reboot(ctx context.Context, p reconcile.Plan) error {
	for began := awake(); w.othersRun() && awake().Sub(began) < othersWithin; {
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	w.rebooting.Store(true)
	defer w.rebooting.Store(false)
	st := w.a.journal.State()
	if ps := st.Profile(w.profile); ps.Phase == journal.PhaseRollingBack && ps.Activation != nil {
		// On record before it is asked for: never twice.
		if err := w.askReboot(ps.Activation); err != nil {
			return err
		}
	}
	w.log.Warn("rebooting the host", "number", p.Target.Number.String(), "why", p.Reason.Message)
	if err := w.a.config.Reboot(ctx); err != nil {
		return fmt.Errorf("rebooting the host: %w", err)
	}
	if err := sleep(ctx, rebootWithin); err != nil {
		return err
	}
	return errNotRebooted
}

// othersWithin bounds how long a reboot waits for runs of other profiles. What is cut short
// then is so by an orderly shutdown, which blames nothing.
const othersWithin = time.Minute

// othersRun says whether an action of another profile goes on just now.
func (w *worker) othersRun() bool {
	st := w.a.journal.State()
	for _, other := range w.a.sorted() {
		ps := st.Profile(other.profile)
		if other == w || ps.Activation == nil {
			continue
		}
		switch ps.Phase { //nolint:exhaustive // In no other does an action change the host.
		case journal.PhaseActivating:
			if run, _ := other.runOf(activateRun(ps.Activation), facts{}); run == reconcile.RunRunning {
				return true
			}
		case journal.PhaseRollingBack:
			c := &reconcile.Change{}
			if other.rollback(c, ps.Activation, facts{}); c.Run == reconcile.RunRunning {
				return true
			}
		}
	}
	return false
}

// Boot lets the generation be booted that waits for that.
func (a *Agent) Boot(_ context.Context, p fleet.ProfileName, actor string) (fleet.Ref, error) {
	_, w, err := a.acting(p)
	if err != nil {
		return fleet.Ref{}, err
	}
	in := w.observe(a.now())
	plan, _ := reconcile.Decide(a.now(), in.desired, in.observed, in.policy)
	if plan.Step != reconcile.StepHold || plan.Reason.Code != fleet.ReasonRebootAsk {
		return fleet.Ref{}, control.NotPossible("fleet-agent status tells where this host is and why", "nothing waits for this host to be rebooted")
	}
	w.log.Info("the host may be rebooted", "number", plan.Target.Number.String(), "actor", actor)
	w.note(func(f *facts) { f.bootAllowed = plan.Target.Digest })
	return plan.Target, nil
}
