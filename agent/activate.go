package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// activate admits the target once more, composes the way there and back, and
// records the intent. Starting it is the next step: after a crash between the
// two, the journal says that it never ran, and it is judged once more.
func (w *worker) activate(ctx context.Context, p reconcile.Plan) error {
	b := w.a.bound.Load()
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	again, _ := b.desired.Desired(b.host(w.profile, ps.Highest), w.a.now())
	if again.Target == nil || again.Target.Digest != p.Target.Digest {
		return nil // The next decision says why.
	}
	o, d, err := w.target(p)
	if err != nil {
		return err
	}
	if !w.whole(ctx, d, o, ps.Staged) {
		return nil
	}
	way := w.wayTo(ctx, ps)
	correction := ps.Activation == nil && p.Target.Digest == ps.Current.Ref.Digest && !unsure(ps)
	if correction {
		if ok, err := w.correct(ctx, &way, ps); !ok || err != nil {
			return err // Or the next decision sees that there is nothing to correct.
		}
	}
	if way.back, err = w.raised(ctx, way.back); err != nil {
		w.later(ctx, p, fleet.ReasonSecretsFailed, err)
		return nil
	}
	policy := o.Generation.Doc.Policy
	var act *journal.Activation
	if way.boot, err = w.bootFor(ctx, way, policy); err == nil {
		act, err = w.compose(ctx, way, policy.ActivationDeadline.Or(fleet.DefaultActivation))
	}
	if correction && err != nil {
		// What the person runs has no way, say: nothing is wrong with what was staged.
		w.later(ctx, p, fleet.ReasonCorrectionFailed, fmt.Errorf("composing the way: %w", err))
		return nil
	}
	if errors.Is(err, driver.ErrNotBuilt) {
		// The next attempt looks again whether what was staged is whole.
		w.note(func(f *facts) { f.built = "" })
	}
	if w.pluginFailed(ctx, p, ps.Staged, err) {
		return nil
	}
	if errors.Is(err, secrets.ErrTwoOwners) {
		w.later(ctx, p, fleet.ReasonSecretsFailed, err)
		return nil
	}
	if errors.Is(err, driver.ErrNotBuilt) && ps.Current.Path != "" {
		return fmt.Errorf("composing activation: what runs now is damaged: %w", err)
	}
	if err != nil {
		return fmt.Errorf("composing activation: %w", err)
	}
	w.a.unitsBefore(ctx, act)
	now := w.a.now().UTC()
	act.ID = w.runID(st.Seq, now, way.to.Ref)
	act.OnlineBefore, act.BootID = w.a.link.isOnline(w.a.config.Now()), w.a.bootID
	act.Agent = w.a.agentStanding()
	w.askBefore(ctx, act, o.Generation.Doc.Reach)
	// What boots may be what a person made of it.
	act.MayReboot = policy.Reboot == fleet.RebootAuto && w.reboots(way.to) && !correction
	act.Deadline = now.Add(policy.ActivationDeadline.Or(fleet.DefaultActivation) + policy.VerifyDeadline.Or(fleet.DefaultVerify))
	w.note(func(f *facts) { f.runID, f.run = "", nil })
	if err := w.a.roomToRun(way.to); err != nil {
		return err
	}
	if st := w.a.journal.State(); st.Paused != nil || w.before(st) != "" {
		return nil // While the staged one was read. The next decision says so.
	}
	return w.append(journal.Record{Kind: journal.KindActivating, Activation: act, Reason: p.Reason})
}

// wayTo is from where to where an activation of what is staged leads, and back to where.
func (w *worker) wayTo(ctx context.Context, ps journal.ProfileState) route {
	way := route{from: ps.Current, to: ps.Staged, back: ps.Current, again: unsure(ps)}
	if ps.Activation != nil { // kept unverified: the way back leads past it
		way.back = ps.Activation.Back()
	} else if _, ok := lastGood(ps); ok && way.again { // what runs is no place to return to
		way.back = ps.LastGood
	}
	if other, strayed := w.strayed(ctx, ps.Current); strayed && ps.Activation == nil {
		// A person acted. That is where to go back to, and being on record counts
		// for nothing.
		w.log.Warn("something else runs than what was activated last", "path", other.Path)
		way.again = true
		if other.Path != way.to.Path {
			way.back = other
		}
	}
	return way
}

// runID names an activation: unique, and the newest of a profile sorts last
// while the clock is not set back. seq is the newest record's: time alone stands
// still where the clock is behind the newest signed time, and under a name that
// was used before an old result would pass for the new run's.
func (w *worker) runID(seq uint64, now time.Time, to fleet.Ref) string {
	return fmt.Sprintf("%s-%s-%s-%d", w.profile.FileName(), now.Format("20060102T150405.000000000"), to.Number, seq)
}

// whole says whether what was staged is still what was built. What this
// process built itself it need not read again.
func (w *worker) whole(ctx context.Context, d driver.Driver, o *desired.Opened, staged journal.Built) bool {
	w.mu.Lock()
	built := w.facts.built
	w.mu.Unlock()
	if built == staged.Ref.Digest {
		return true
	}
	err := driver.Verify(ctx, d, staged.Path)
	if errors.Is(err, driver.ErrUnsupported) {
		err = nil
	}
	if err == nil {
		err = w.wholeSecrets(ctx, o, staged)
	}
	if err == nil {
		w.note(func(f *facts) { f.built = staged.Ref.Digest })
		return true
	}
	w.log.Warn("what was staged is not whole any more; it is built again", "error", err)
	w.note(func(f *facts) {
		f.damaged = staged.Ref.Digest
		if f.fetched == f.damaged {
			f.fetched = ""
		}
	})
	return false
}

// wholeSecrets makes the secrets of what was staged once more: files that
// differ are replaced.
func (w *worker) wholeSecrets(ctx context.Context, o *desired.Opened, staged journal.Built) error {
	w.a.building.RLock()
	defer w.a.building.RUnlock()
	path, err := w.prepareSecrets(ctx, o)
	if err == nil && path != staged.Secrets {
		err = fmt.Errorf("secrets are in %s, staged were %s", path, staged.Secrets)
	}
	return err
}

// route is from where an activation leads to where, and back to where.
type route struct {
	from, to, back journal.Built
	// again says that from was never verified: being there counts for nothing.
	again bool
	// boot is the way there where it leads through a boot; nil for none.
	boot *driver.Boot
	// drift is what a person made of the host, where that is to be undone; nil for nothing.
	drift *driver.Drift
}

// compose makes the actions: the driver's own, with the secrets' link flipped
// in front of them. Where only the secrets differ, only they change.
func (w *worker) compose(ctx context.Context, r route, deadline time.Duration) (*journal.Activation, error) {
	from, to, back := r.from, r.to, r.back
	act := &journal.Activation{From: from, To: to, Undoes: r.madeBy()}
	if r.drift == nil && (!back.Is(from.Ref) || back.Path != from.Path || back.Secrets != from.Secrets) {
		act.RollbackTo = &back
	}
	var do driver.Activation
	var err error
	if act.Boots = r.boot != nil; act.Boots {
		do = r.boot.Activation
	} else if do, err = w.between(ctx, from, to); err != nil {
		return nil, err
	}
	switch {
	case r.drift != nil:
		if err := w.undoing(ctx, r, &do); err != nil {
			return nil, err
		}
	case from.Path == to.Path && !r.again:
		do.Activate, do.Rollback = driver.Action{}, driver.Action{}
	}
	if back.Path != from.Path && r.drift == nil {
		// Also where the way leads to back itself: half an activation is not
		// undone by doing nothing.
		undo, err := w.between(ctx, back, to)
		if err != nil {
			return nil, err
		}
		do.Rollback = undo.Rollback
	}
	root := w.a.config.secretsRoot(w.profile)
	if to.Secrets != from.Secrets || to.Secrets != back.Secrets {
		do.Activate.Steps = append([]driver.Step{secrets.LinkStep(root, to.Secrets)}, do.Activate.Steps...)
		do.Rollback.Steps = append([]driver.Step{secrets.LinkStep(root, back.Secrets)}, do.Rollback.Steps...)
		w.restart(&do.Activate, from, to)
		w.restart(&do.Rollback, to, back)
	}
	if places, ours := w.a.config.places(); ours && w.profile == fleet.System && to.Secrets != "" {
		there, undone, err := places.Steps()
		if err != nil {
			return nil, err //nolint:wrapcheck // It says what failed.
		}
		do.Activate.Steps = append(there, do.Activate.Steps...)
		do.Rollback.Steps = append(undone, do.Rollback.Steps...)
	}
	for _, a := range []*driver.Action{&do.Activate, &do.Commit, &do.Rollback} {
		a.Deadline = deadline
	}
	do.Rollback.Deadline = max(deadline, w.deadlineOf(back))
	act.Activate, act.Commit, act.Rollback = do.Activate, do.Commit, do.Rollback
	return act, do.Validate()
}

// between is the way from one built path to another. Each is left and entered by
// the driver that built it.
func (w *worker) between(ctx context.Context, from, to journal.Built) (driver.Activation, error) {
	if from.Path == "" && to.Path == "" {
		return driver.Activation{}, nil
	}
	if from.Path == "" {
		from.Driver, from.Ref = to.Driver, to.Ref
	}
	if to.Path == "" {
		to.Driver, to.Ref = from.Driver, from.Ref
	}
	leaves, leaver, err := w.maker(from)
	if err != nil {
		return driver.Activation{}, err
	}
	enters, enterer, err := w.maker(to)
	if err != nil {
		return driver.Activation{}, err
	}
	if leaves == enters {
		return enterer.Activation(ctx, w.profile, from.Path, to.Path) //nolint:wrapcheck // It says what failed.
	}
	leave, err := leaver.Activation(ctx, w.profile, from.Path, "")
	if err != nil {
		return driver.Activation{}, fmt.Errorf("leaving driver %s: %w", leaves, err)
	}
	enter, err := enterer.Activation(ctx, w.profile, "", to.Path)
	if err != nil {
		return driver.Activation{}, fmt.Errorf("entering driver %s: %w", enters, err)
	}
	return driver.Activation{
		Activate: driver.Action{Steps: slices.Concat(leave.Activate.Steps, enter.Activate.Steps)},
		Commit:   driver.Action{Steps: slices.Concat(leave.Commit.Steps, enter.Commit.Steps)},
		Rollback: driver.Action{Steps: slices.Concat(enter.Rollback.Steps, leave.Rollback.Steps)},
	}, nil
}

// deadlineOf is what a generation's own policy gives its activation: a way back
// to it must not be cut short by the policy of the one that failed.
func (w *worker) deadlineOf(b journal.Built) time.Duration {
	if b.Ref.Digest == "" {
		return fleet.DefaultActivation
	}
	g, err := w.a.bound.Load().desired.LoadAccepted(b.Ref.Digest)
	if err != nil {
		return fleet.DefaultActivation // Its document was pruned or damaged: be generous.
	}
	return g.Policy.ActivationDeadline.Or(fleet.DefaultActivation)
}

// rollBack records the intent to go back, where that isn't on record yet, and
// starts it.
func (w *worker) rollBack(ctx context.Context, p reconcile.Plan) error {
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	w.note(func(f *facts) { f.runID, f.run = "", nil })
	if ps.Phase == journal.PhaseRollingBack {
		return w.startRun(ctx)
	}
	records := []journal.Record{{Kind: journal.KindRollingBack, Reason: p.Reason, Blameless: reconcile.Blameless(p.Reason)}}
	if ps.Activation != nil {
		w.log.Warn("rolling back", "number", ps.Activation.To.Ref.Number.String(), "reason", string(p.Reason.Code))
	} else {
		// A person's: there is no activation to undo, so the way back is composed
		// now, as if what runs had just been activated from last-good.
		act, err := w.wayBack(ctx, st.Seq, ps)
		if err != nil {
			return err
		}
		records = append([]journal.Record{{Kind: journal.KindActivating, Activation: act, Reason: p.Reason}}, records...)
	}
	return w.append(records...)
}

func (w *worker) wayBack(ctx context.Context, seq uint64, ps journal.ProfileState) (*journal.Activation, error) {
	g, err := w.a.bound.Load().desired.LoadAccepted(ps.Current.Ref.Digest)
	if err != nil {
		return nil, fmt.Errorf("composing the way back: %w", err)
	}
	back, err := w.raised(ctx, ps.LastGood)
	if err != nil {
		return nil, err
	}
	way := route{from: ps.LastGood, to: ps.Current, back: back}
	act, err := w.compose(ctx, way, g.Policy.ActivationDeadline.Or(fleet.DefaultActivation))
	if err != nil {
		return nil, fmt.Errorf("composing the way back: %w", err)
	}
	act.ID = w.runID(seq, w.a.now().UTC(), ps.Current.Ref)
	act.From, act.RollbackTo = ps.Current, &back
	act.OnlineBefore, act.BootID = w.a.link.isOnline(w.a.config.Now()), w.a.bootID
	w.askBefore(ctx, act, g.Reach)
	return act, nil
}

// settle ends an activation and clears away what is of no use any more.
func (w *worker) settle(ctx context.Context, r journal.Record) error {
	st := w.a.journal.State()
	act := st.Profile(w.profile).Activation
	if err := w.append(r); err != nil {
		return err
	}
	w.disarm(ctx, act)
	w.note(func(f *facts) { *f = facts{unmended: f.unmended, unbooted: f.unbooted} })
	w.a.prune(ctx)
	poke(w.a.rest.settled)
	return nil
}

// runEnv is put in front of the environment of every program.
func (a *Agent) runEnv(p fleet.ProfileName) []string {
	return append([]string{"FLEET_SECRETS=" + a.config.secretsRoot(p)}, a.config.ExtraEnv...)
}

// sourceDigest tells equal sources from others.
func sourceDigest(s fleet.Source) fleet.Digest {
	b, err := json.Marshal(s)
	if err != nil {
		return "" // A source has no field that can fail.
	}
	return fleet.DigestOf(b)
}
