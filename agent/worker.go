package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	stdsync "sync"
	"sync/atomic"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// errSuperseded is the cause of work that ends because something else is to be
// done now.
var errSuperseded = errors.New("superseded")

// stepRetry is the pause after a step that failed for a reason of this host's
// own, such as a full disk.
const stepRetry = 10 * time.Second

// worker carries out the plans for one profile.
type worker struct {
	a       *Agent
	profile fleet.ProfileName
	log     *slog.Logger
	signal  chan struct{}
	// loop is where run is; of its goroutine only.
	loop *watchdog.Loop
	back chan struct{} // the coordinator is back
	// deadman is set when the worker begins; nil for none.
	deadman atomic.Pointer[deadman.Switch]
	// inspected says that what a power loss may have damaged was looked at; guarded
	// by the agent's mu.
	inspected bool

	// rebooting says that the host is about to go down: it was asked to, and will.
	rebooting atomic.Bool
	// waits is what waits for the console. begins is held while an activation is started,
	// and while somebody puts it off; moved says that somebody did since the last decision.
	waits  *waits
	begins stdsync.Mutex
	moved  bool

	mu    stdsync.Mutex
	facts facts
	said  said
	// drifted is what a person had made of the profile at the last decision.
	drifted string
	// driftedSince is when that was seen first, in time awake.
	driftedSince time.Time
	// hindered says that the host kept the target from being activated at the last
	// decision.
	hindered bool
	// decidedOn is the newest generation at a decision that came to its end; of run's
	// goroutine only.
	decidedOn fleet.Digest
	// failing is the step that failed, while it is tried again.
	failing *failing
}

// failing is a step that failed for a reason of this host's own.
type failing struct {
	plan reconcile.Plan
	why  fleet.Reason
}

// facts are what the journal does not hold: they are found out again after a
// restart.
type facts struct {
	// fetched and built name the generation that this process fetched, and the
	// one that it built or verified to be whole.
	fetched, built fleet.Digest
	// damaged is a staged generation that is not whole any more.
	damaged fleet.Digest
	// wait is the backoff of waitFor after failed attempts. It counts time
	// awake: a clock that steps must not lengthen it.
	wait    *wait
	waitFor fleet.Digest
	failed  int
	// run is how the run named runID ended, once it was waited for.
	runID string
	run   *runEnd
	// verification of the activation named verifyID.
	verifyID    string
	probes      fleet.Verdict
	probeDetail string
	reached     bool
	reachDetail string // why not, where there is more to say
	witnessed   bool
	overdue     bool
	orphaned    string // why no agent would be started
	// bootAllowed is the staged generation that a person lets the host be rebooted for.
	bootAllowed fleet.Digest
	// unbooted is why a generation was not booted although its policy permits it.
	unbooted string
	awaited  *awaited  // nil while none runs; guarded by the worker's mu
	again    int       // verifications after the deadline
	unable   time.Time // since when verification can't even begin
	// unmended and mended are what a person should know of a power loss, as long as
	// nothing else is to be said: unmended until the agent ends, mended until the
	// next activation has ended.
	unmended, mended fleet.Reason
}

// wait is a backoff; until is monotonic.
type wait struct {
	until  time.Time
	reason fleet.Reason
}

// runEnd is how a run ended.
type runEnd struct {
	run    reconcile.Run
	detail string
}

// said is the last decision, for status.
type said struct {
	plan    reconcile.Plan
	desired fleet.Ref
	mode    fleet.Mode
}

func newWorker(a *Agent, p fleet.ProfileName) *worker {
	w := &worker{
		a: a, profile: p, signal: make(chan struct{}, 1), back: make(chan struct{}, 1),
		log: a.config.Log.With("profile", string(p)),
	}
	var err error
	if w.waits, err = openWaits(filepath.Join(a.config.below(waitsDir), p.FileName())); err != nil {
		w.log.Error("what waits for the person at the console waits anew", "error", err)
	}
	return w
}

// wake has the worker decide again.
func (w *worker) wake() { poke(w.signal) }

// note changes the facts and has the worker decide again.
func (w *worker) note(change func(*facts)) {
	w.mu.Lock()
	change(&w.facts)
	w.mu.Unlock()
	w.wake()
}

// online ends waits that a returned coordinator may have ended.
func (w *worker) online() {
	w.note(func(f *facts) { f.wait, f.failed = nil, 0 })
	poke(w.back)
}

// forgive ends waits, because a person or a document wants another attempt.
func (w *worker) forgive() { w.online() }

// job is work that a newer decision may cut short.
type job struct {
	plan   reconcile.Plan
	cancel context.CancelCauseFunc
	done   chan error
}

// end cuts the job short and waits for its end. What it says then is about the
// cut, and of no interest.
func (j *job) end(cause error) {
	j.cancel(cause)
	if err := <-j.done; err != nil {
		return
	}
}

// run decides and carries out until ctx ends. Each decision starts from what
// is on disk, so that nothing depends on what was decided before.
func (w *worker) run(ctx context.Context) error {
	w.loop = w.a.progress.Loop(string(w.profile), "opening the dead-man switch", oneStep)
	defer w.loop.Ends()
	if err := w.openSwitch(); err != nil {
		// Tried again before anything is activated; all else goes on.
		w.log.Error("there is no dead-man switch", "error", err)
	}
	defer w.releaseSwitch()
	w.loop.Does("looking at what a power loss may have damaged", longStep)
	if err := w.step(ctx, w.inspect); err != nil {
		return err
	}
	var current *job
	defer func() {
		if current != nil {
			current.end(errStopped)
		}
	}()
	for {
		w.loop.Does("deciding", oneMoment)
		now := w.a.now()
		plan := w.decideOnce(now)
		if current != nil && !current.plan.Same(plan) {
			current.end(errSuperseded)
			current = nil
			continue
		}
		if current == nil {
			work, background := w.work(plan)
			switch {
			case work == nil:
			case background:
				current = w.start(ctx, plan, work)
			default:
				w.loop.Does(string(plan.Step), oneStep)
				if err := w.stepped(ctx, plan, w.attempt(ctx, plan, work)); err != nil {
					return err
				}
				continue
			}
		}
		ended, err := w.await(ctx, plan, now, current)
		if err != nil {
			return err
		}
		if ended {
			current = nil
		}
	}
}

// await returns when it is worth deciding again.
func (w *worker) await(ctx context.Context, plan reconcile.Plan, now time.Time, current *job) (ended bool, err error) {
	var done <-chan error
	if current != nil {
		done = current.done
	}
	var due <-chan time.Time
	if !plan.Until.IsZero() {
		t := time.NewTimer(max(plan.Until.Sub(now), time.Millisecond))
		defer t.Stop()
		due = t.C
	}
	w.loop.Waits()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-w.signal:
		return false, nil
	case <-due:
		return false, nil
	case err := <-done:
		return true, w.stepped(ctx, current.plan, err)
	}
}

func (w *worker) start(ctx context.Context, plan reconcile.Plan, work func(context.Context) error) *job {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &job{plan: plan, cancel: cancel, done: make(chan error, 1)}
	go func() {
		defer cancel(nil)
		l := w.a.progress.Loop(string(w.profile), string(plan.Step), longStep)
		defer l.Ends()
		j.done <- w.attempt(ctx, plan, work)
		close(j.done)
	}()
	return j
}

// step carries out a step.
func (w *worker) step(ctx context.Context, work func(context.Context) error) error {
	defer w.a.rest.work()()
	return work(ctx)
}

// stepped judges the end of a step: only a journal that can't be written ends
// the worker; after other failures the same step is tried again, later.
func (w *worker) stepped(ctx context.Context, plan reconcile.Plan, err error) error {
	switch {
	case err == nil, errors.Is(err, errSuperseded):
		w.mu.Lock()
		w.failing = nil
		w.mu.Unlock()
		return nil
	case errors.Is(err, errStopped), errors.Is(err, context.Canceled),
		errors.Is(err, journal.ErrBroken), errors.Is(err, journal.ErrClosed):
		return err
	}
	why := fleet.Reason{
		Code: fleet.ReasonInternal, Message: err.Error(), Hint: "look at the agent's log, its disk and its permissions",
	}
	if full, is := w.a.fullDisk(err); is {
		why = full
	}
	w.log.Error("step failed", "error", err)
	w.mu.Lock()
	w.failing = &failing{plan: plan, why: why}
	w.said.plan.Reason = why
	w.mu.Unlock()
	w.a.link.wantReport()
	w.loop.Waits()
	return sleep(ctx, min(stepRetry, w.a.config.Retry.Max))
}

// decide looks at everything, decides, and publishes the decision.
func (w *worker) decide(now time.Time) reconcile.Plan {
	w.begins.Lock()
	w.moved = false
	w.begins.Unlock()
	in := w.observe(now)
	plan, _ := reconcile.Decide(now, in.desired, in.observed, in.policy)
	next := said{plan: plan, mode: in.policy.Mode}
	if in.desired.Target != nil {
		next.desired = *in.desired.Target
	}
	w.mu.Lock()
	switch {
	case w.failing == nil:
	case w.failing.plan.Same(plan):
		next.plan.Reason = w.failing.why // While it is tried again, too.
	default:
		w.failing = nil // Should that come again, it has not failed yet.
	}
	changed := w.said.plan.Step != plan.Step || w.said.plan.Target != plan.Target ||
		w.said.plan.Reason.Code != next.plan.Reason.Code || w.said.mode != next.mode ||
		next.plan.Reason.Code == fleet.ReasonOverridden && w.said.plan.Reason != next.plan.Reason
	another := w.profile == fleet.System && w.said.desired != next.desired
	w.said = next
	w.mu.Unlock()
	if another {
		poke(w.a.newest)
	}
	if changed {
		w.log.Info("decided", "step", string(plan.Step), "number", plan.Target.Number.String(),
			"reason", string(next.plan.Reason.Code))
		w.a.link.wantReport()
		poke(w.a.decided)
		w.next()
	}
	if err := w.recordMode(next.mode); err != nil {
		w.log.Warn("recording the mode failed", "error", err)
	}
	if err := w.recordHold(plan, in.state); err != nil {
		w.log.Warn("recording a hold failed", "error", err)
	}
	if err := w.recordWait(plan, in); err != nil {
		w.log.Warn("recording a wait for the console failed", "error", err)
	}
	return plan
}

// recordMode keeps the machine's mode, which is that of its system profile, for
// whoever reads the journal without an agent.
func (w *worker) recordMode(m fleet.Mode) error {
	if w.profile != fleet.System || w.a.journal.State().Mode == m {
		return nil
	}
	return w.append(journal.Record{Kind: journal.KindMode, Mode: m})
}

// recordHold writes down that something waits for a person or a policy, and
// that it does no longer. Short waits are for status only.
func (w *worker) recordHold(plan reconcile.Plan, p journal.ProfileState) error {
	waits := plan.Step == reconcile.StepHold || plan.Step == reconcile.StepVerify && !wentBack(p)
	held := plan.Until.IsZero() && waits && plan.Reason.Code != ""
	held = held || reconcile.WaitsForConsole(plan) && plan.Step != reconcile.StepWithdraw
	switch {
	case held && (p.Held == nil || p.Held.Code != plan.Reason.Code):
		return w.append(journal.Record{Kind: journal.KindHeld, Ref: plan.Target, Reason: plan.Reason})
	case !held && p.Held != nil:
		return w.append(journal.Record{Kind: journal.KindUnheld})
	}
	return nil
}

// append writes records about the profile, and has them reported.
func (w *worker) append(recs ...journal.Record) error {
	for i := range recs {
		recs[i].Profile = w.profile
	}
	if err := w.a.journal.Append(recs...); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	w.a.link.wantReport()
	return nil
}
