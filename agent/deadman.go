package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/launchd"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/service"
)

// deadmanDir is below the state directory.
const deadmanDir = "dead-man"

// defaultMargin is what the switch leaves the agent to decide by itself, beyond
// the deadlines of activation and verification.
const defaultMargin = time.Minute

// DeadMan is about the dead-man switch of activations.
type DeadMan struct {
	// Command runs a switch: its directory is appended. Empty: there is none.
	Command []string
	// Renew has the program that Command names be the agent's own again; it is called
	// when an activation is over, because it changes nothing before. Optional.
	Renew func() error
	// Margin is what it leaves the agent beyond the deadlines of activation and
	// verification; default a minute.
	Margin time.Duration
	// Unit is the agent's own service, which a switch that fired starts anew, and whose
	// trouble is no evidence against an activation; empty for none.
	Unit string
	// Systemd says that switches and runners are to be transient services of systemd,
	// and not processes of the agent's.
	Systemd bool
	// Launchd has them be jobs of a Mac's launchd; nil for not. Where it starts none they
	// are processes of the agent's, in sessions of their own.
	Launchd *service.Launchctl
}

// Names of the jobs of launchd, and of the directories below the run directory that have
// their property lists.
const (
	activationJobs = "fleet-activation"
	deadManJobs    = "fleet-dead-man"
)

// jobs are those of launchd with a name.
func (a *Agent) jobs(name string, again bool) *launchd.Jobs {
	return &launchd.Jobs{Launchctl: *a.config.DeadMan.Launchd, Dir: filepath.Join(a.config.RunDir, name), Name: name, Again: again}
}

// units are what starts runners; nil where they are processes of the agent's.
func (a *Agent) units() *execute.Units {
	switch {
	case a.config.DeadMan.Systemd:
		return &execute.Units{Manager: execute.Systemd{Agent: a.config.DeadMan.Unit}, Dir: a.config.RunDir}
	case a.config.DeadMan.Launchd != nil:
		return &execute.Units{Manager: a.jobs(activationJobs, false), Dir: a.config.RunDir}
	}
	return nil
}

// openSwitches decides how switches are started.
func (a *Agent) openSwitches() {
	if len(a.config.DeadMan.Command) == 0 {
		return
	}
	a.switches = &deadman.Children{Command: a.config.DeadMan.Command}
	a.startSwitch = a.switches.Start
	switch {
	case a.config.DeadMan.Systemd:
		a.startSwitch = (&deadman.Units{Command: a.config.DeadMan.Command}).Start
	case a.config.DeadMan.Launchd != nil:
		j := &deadman.Jobs{
			Command: a.config.DeadMan.Command, Jobs: a.jobs(deadManJobs, true), Else: a.switches.Start,
			Warn: func(err error) {
				a.config.Log.Warn("launchd starts no dead-man switch: it is a process of the agent's own job", "error", err)
			},
		}
		j.Jobs.Clear(context.Background())
		a.startSwitch = j.Start
	}
}

// openSwitch gives the worker its switch where it has none, and ends an order that is on record as
// over: the agent may have died between the two.
func (w *worker) openSwitch() error {
	if w.a.switches == nil || w.deadman.Load() != nil {
		return nil
	}
	if err := os.Mkdir(w.a.config.below(deadmanDir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("opening the dead-man switch: %w", err)
	}
	s, err := deadman.Open(filepath.Join(w.a.config.below(deadmanDir), w.profile.FileName()), w.a.startSwitch)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	st := w.a.journal.State()
	act := st.Profile(w.profile).Activation
	switch id, err := s.Order(); {
	case err != nil:
		w.log.Error("the dead-man switch's order is damaged; it is given anew with the next activation", "error", err)
	case id != "" && (act == nil || act.ID != id):
		if err := s.Done(id); err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
	}
	w.deadman.Store(s)
	return nil
}

// prepareAfter is how long a build has the machine for itself at first: what it
// starts is what the activation waits for.
const prepareAfter = 20 * time.Millisecond

// prepareRun has a switch and a runner wait while a generation is built, so that its
// activation need not wait for processes to start. The build need not wait for them
// either; the function that is returned does, where they were begun.
func (w *worker) prepareRun(ctx context.Context) (built func()) {
	over, prepared := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(prepared)
		select {
		case <-over:
			return
		case <-time.After(prepareAfter):
		}
		if w.deadman.Load() != nil {
			if err := w.deadman.Load().Prepare(ctx); err != nil {
				w.log.Warn("starting the dead-man switch ahead failed", "error", err)
			}
		}
		if err := w.a.executor.Prepare(); err != nil {
			w.log.Warn("starting a runner ahead failed", "error", err)
		}
	}()
	return func() {
		close(over)
		<-prepared
	}
}

// releaseSwitch ends one that waits for nothing, with the agent.
func (w *worker) releaseSwitch() {
	if w.deadman.Load() == nil {
		return
	}
	if err := w.deadman.Load().Release(); err != nil {
		w.log.Warn("ending an idle dead-man switch failed", "error", err)
	}
	w.a.switches.Reap(context.Background())
}

// arm makes sure that a switch waits for the activation, with the way back; it
// MUST have returned nil before the activation begins. Nothing where somebody
// decided about it already.
func (w *worker) arm(ctx context.Context, act *journal.Activation) error {
	if w.deadman.Load() == nil {
		return nil
	}
	if v, err := w.deadman.Load().Verdict(act.ID); err != nil || v != "" {
		return err //nolint:wrapcheck // It says what failed.
	}
	verify := fleet.DefaultVerify
	if g, err := w.a.bound.Load().desired.LoadAccepted(act.To.Ref.Digest); err == nil {
		verify = g.Policy.VerifyDeadline.Or(fleet.DefaultVerify)
	}
	o := deadman.Order{
		ID: act.ID, After: deadlineOr(act.Activate) + verify + w.a.config.DeadMan.Margin,
		Runs: w.a.config.below(runsDir), Activate: activateRun(act), Rollback: act.Rollback,
		Env: w.a.runEnv(w.profile), Unit: w.a.config.DeadMan.Unit,
	}
	for n := 1; n <= reconcile.MaxRollBackAttempts; n++ {
		o.Back = append(o.Back, rollbackRun(act, n))
	}
	return w.deadman.Load().Arm(ctx, o) //nolint:wrapcheck // It says what failed.
}

// rearm is arm for an activation that has begun: it goes on in any case.
func (w *worker) rearm(ctx context.Context, act *journal.Activation) {
	if err := w.arm(ctx, act); err != nil && ctx.Err() == nil {
		w.log.Error("the dead-man switch can't be armed; what is in flight goes on without one", "error", err)
	}
}

// allow gives the agent more time before the switch fires.
func (w *worker) allow(ctx context.Context, act *journal.Activation, more time.Duration) {
	if w.deadman.Load() == nil {
		return
	}
	if v, err := w.deadman.Load().Verdict(act.ID); err != nil || v != "" {
		return
	}
	if err := w.deadman.Load().Extend(ctx, act.ID, more+w.a.config.DeadMan.Margin); err != nil && ctx.Err() == nil {
		w.log.Warn("giving the dead-man switch another deadline failed", "error", err)
	}
}

// settleSwitch leaves a verdict on the activation, before it is on record. ok is false
// where the switch was first: the way back has begun.
func (w *worker) settleSwitch(act *journal.Activation, v deadman.Verdict) (ok bool, err error) {
	if w.deadman.Load() == nil || act == nil {
		return true, nil
	}
	got, err := w.deadman.Load().Claim(act.ID, v)
	return got != deadman.Fired, err //nolint:wrapcheck // It says what failed.
}

// disarm ends the order of an activation that is over on record.
func (w *worker) disarm(ctx context.Context, act *journal.Activation) {
	if w.deadman.Load() == nil || act == nil {
		return
	}
	if err := w.deadman.Load().Done(act.ID); err != nil {
		w.log.Warn("ending the dead-man switch's order failed", "error", err)
	} else if renew := w.a.config.DeadMan.Renew; renew != nil {
		if err := renew(); err != nil {
			w.log.Warn("keeping a copy of this program for the dead-man switch failed: the one before stays", "error", err)
		}
	}
	w.a.switches.Reap(ctx)
}

// fired says whether the switch takes the activation back, or did.
func (w *worker) fired(act *journal.Activation) bool {
	if w.deadman.Load() == nil {
		return false
	}
	v, err := w.deadman.Load().Verdict(act.ID)
	if err != nil {
		w.log.Error("looking at the dead-man switch failed", "error", err)
	}
	return v == deadman.Fired
}

// deadlineOr is an action's deadline; one without steps needs none.
func deadlineOr(a driver.Action) time.Duration {
	if a.Deadline > 0 {
		return a.Deadline
	}
	return fleet.DefaultActivation
}
