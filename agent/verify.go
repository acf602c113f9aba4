package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/probe"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// reachFirst and reachMax bound the waits between attempts at a new
	// connection while the verify deadline runs.
	reachFirst = 100 * time.Millisecond
	reachMax   = 5 * time.Second
	// againMax bounds the waits of a verification that goes on after its
	// deadline because the generation was kept.
	againMax = time.Minute
	// lateDeadline bounds a verification after the deadline: most of what will pass by
	// then does at once.
	lateDeadline = 10 * time.Second
)

// verify probes what was activated, what the host went back to, or what runs and is in
// doubt, and reaches for the coordinator over a new connection, both until they succeed
// or the deadline, in time awake, is over.
func (w *worker) verify(ctx context.Context) error {
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	switch act := ps.Activation; {
	case act == nil:
		return w.verifyDoubt(ctx, ps)
	case ps.Phase == journal.PhaseRollingBack:
		return w.verifyBack(ctx, act)
	default:
		return w.verifyNew(ctx, act)
	}
}

func (w *worker) verifyNew(ctx context.Context, act *journal.Activation) error {
	w.rearm(ctx, act)
	late := w.begin(act.ID)
	g, err := w.a.bound.Load().desired.LoadAccepted(act.To.Ref.Digest)
	if err != nil {
		return w.unable(err, fleet.DefaultVerify)
	}
	t := trial{of: act.To, doc: g, ran: act.Activate, deadline: g.Policy.VerifyDeadline.Or(fleet.DefaultVerify)}
	t.witnesses(act, g.Reach)
	if act.Boots {
		t.units = act.Units
	}
	if late {
		// By policy: the switch must not take it back.
		if ok, err := w.settleSwitch(act, deadman.Kept); !ok || err != nil {
			w.wake()
			return err
		}
		if err := w.again(ctx); err != nil {
			return err
		}
	}
	if ok, err := w.isSuccessor(ctx, act, g, t.deadline); !ok || err != nil {
		return err
	}
	if late {
		t.deadline = min(t.deadline, lateDeadline)
	} else {
		w.allow(ctx, act, t.deadline)
	}
	if err := w.verifyWithin(ctx, t); err != nil {
		return err
	}
	return w.keepIt(act, g)
}

// keepIt has the switch leave alone what the policy keeps although nobody can tell whether
// it works: what is newer may be on its way before that is looked at again.
func (w *worker) keepIt(act *journal.Activation, g fleet.Generation) error {
	w.mu.Lock()
	f := w.facts
	w.mu.Unlock()
	proved := f.probes == fleet.VerdictPass && (f.reached || f.witnessed)
	kept := !act.Boots && (!act.OnlineBefore || g.Policy.OnInconclusive == fleet.InconclusiveKeep)
	if !f.overdue || proved || f.probes == fleet.VerdictFail || !kept {
		return nil
	}
	_, err := w.settleSwitch(act, deadman.Kept)
	w.wake()
	return err
}

// begin forgets what is known of any other verification than the one named, and says
// whether its deadline is over already.
func (w *worker) begin(id string) (late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &w.facts
	if f.verifyID != id {
		f.verifyID, f.probes, f.probeDetail, f.reached, f.overdue, f.again, f.unable = id, "", "", false, false, 0, time.Time{}
		f.orphaned, f.reachDetail, f.witnessed = "", "", false
	}
	return f.overdue
}

// again waits before what did not prove to work is looked at again, ever longer, unless
// the coordinator comes back.
func (w *worker) again(ctx context.Context) error {
	w.mu.Lock()
	wait := min(againMax, max(w.a.config.Retry.First, time.Second)<<min(w.facts.again, 6))
	w.facts.again++
	w.mu.Unlock()
	return sleepOr(ctx, spread(wait)+wait/2, w.back)
}

// unable is for a verification that can't begin: after the deadline that is
// inconclusive, as any other that came to nothing.
func (w *worker) unable(cause error, deadline time.Duration) error {
	now, over := awake(), false
	w.mu.Lock()
	f := &w.facts
	if f.unable.IsZero() {
		f.unable = now
	}
	if over = now.Sub(f.unable) >= deadline; over {
		f.probes, f.probeDetail, f.overdue = fleet.VerdictInconclusive, cause.Error(), true
	}
	w.mu.Unlock()
	if over {
		w.wake()
	}
	return cause
}

// trial is one verification.
type trial struct {
	of journal.Built
	// doc is the signed document of what is verified; its zero value where there is none.
	doc fleet.Generation
	// ran is what brought it to run; a plugin's probes run in the same.
	ran      driver.Action
	deadline time.Duration
	// here are the witnesses that answered before, outside those that reached the
	// coordinator on this host.
	here, outside []fleet.Witness
	// alone says that it needs no coordinator: the host had none before.
	alone bool
	// units were failed before the boot that is verified; nil where no units are judged.
	units *journal.TroubledUnits
}

func (w *worker) verifyWithin(ctx context.Context, t trial) error {
	deadline := t.deadline
	probes, env, err := w.probes(ctx, t)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return w.unable(err, deadline)
	}
	began, beganAwake := w.a.config.Now(), awake()
	was, wasUnder := w.besideSystem(w.a.journal.State())
	w.expect(probes, began.Add(deadline))
	defer w.unexpect()
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var verdict fleet.Verdict
	var why fleet.Reason
	var reached, witnessed bool
	var unreached string
	eg, limited := errgroup.WithContext(limited)
	asking, answered := context.WithCancel(limited)
	defer answered()
	eg.Go(func() error {
		verdict, why = probe.Verify(ctx, probes, deadline, w.watched(probe.In(env)))
		return nil
	})
	eg.Go(func() error {
		defer answered()
		reached = t.alone || w.reach(limited)
		if reached && len(t.outside) > 0 {
			unreached, reached = w.reachOutside(limited, t)
		}
		if reached {
			w.arrived()
		}
		return nil
	})
	eg.Go(func() error {
		witnessed = w.bearWitness(asking, t)
		return nil
	})
	var broken string
	eg.Go(func() error {
		broken = w.brokenByBoot(limited, t)
		return nil
	})
	if err := eg.Wait(); err != nil {
		return err //nolint:wrapcheck // None returns one.
	}
	if broken != "" {
		verdict, why = fleet.VerdictFail, fleet.Reason{Message: "units that failed in the boot, and had not before: " + broken}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w.log.Info("verification", "probes", string(verdict), "detail", why.Message, "reached", reached, "witnessed", witnessed)
	if verdict != fleet.VerdictPass || !reached {
		at, under := w.besideSystem(w.a.journal.State())
		switch {
		case sleptSince(began, beganAwake, w.a.config.Now()):
			// A network takes a while to come back: what failed around a sleep says
			// nothing, and is tried for the whole deadline again.
			return nil
		case under || wasUnder || at != was:
			w.log.Info("the system was changed meanwhile: what failed beside that is verified anew")
			return nil
		case w.a.stopping(ctx):
			w.log.Info("the host is being shut down: what fails meanwhile says nothing")
			return nil
		}
	}
	w.note(func(f *facts) {
		f.probes, f.probeDetail = verdict, why.Message
		f.reached, f.reachDetail, f.witnessed = reached, unreached, witnessed && !reached
		f.overdue = verdict != fleet.VerdictPass || !reached
	})
	return nil
}

// verified records it. A revert has succeeded only now: from here on what the
// host was sent back from is refused, also should the coordinator forget.
func (w *worker) verified() error {
	recs := []journal.Record{{Kind: journal.KindVerified}}
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	if ok, err := w.settleSwitch(ps.Activation, deadman.Verified); !ok || err != nil {
		w.wake() // To go back.
		return err
	}
	if act := ps.Activation; act != nil && !act.Forgiven && act.To.Ref.Number.Compare(act.From.Ref.Number) < 0 {
		if _, known := ps.IsRefused(act.From.Ref.Digest); !known && act.From.Ref.Digest != "" {
			recs = append(recs, journal.Record{Kind: journal.KindRefused, Ref: act.From.Ref, Reason: fleet.Reason{
				Code: fleet.ReasonOperatorRefused, Message: "an operator sent this host back from it",
				Hint: "publish a new generation, or allow this one with fleetctl retry, or here with fleet-agent retry",
			}})
		}
	}
	defer w.a.unhinder()
	return w.append(recs...)
}

// reach reports over a new connection until the coordinator answers or ctx
// ends. That it acknowledged is needed for confirmed only.
func (w *worker) reach(ctx context.Context) bool {
	b := w.a.bound.Load()
	for wait := reachFirst; ; wait = min(2*wait, reachMax) {
		if w.a.reachOnce(ctx, b) == nil {
			return true
		}
		if sleep(ctx, spread(wait)+wait/2) != nil {
			return false
		}
	}
}

// probes are those of the signed generation and what the built path brings
// along (a signed one of the same name wins), with what they run in: the
// environment, and as the user, of the driver's own programs.
func (w *worker) probes(ctx context.Context, t trial) ([]fleet.Probe, probe.Env, error) {
	env := probe.Env{Path: t.of.Path, Environ: w.a.runEnv(w.profile)}
	env.Plugin = w.pluginProbe(t.doc, t.of.Path)
	if t.of.Path == "" {
		return slices.Clone(t.doc.Probes), env, nil // Nothing ran before the first generation.
	}
	name, d, err := w.maker(t.of)
	if err != nil {
		return nil, env, err
	}
	// What a plugin said before the activation, so that none is needed to verify
	// what it built.
	do := driver.Activation{Activate: t.ran}
	if fleet.IsBuiltinDriver(name) || lastExec(t.ran) == nil {
		do, err = d.Activation(ctx, w.profile, "", t.of.Path)
	}
	if err != nil {
		return nil, env, fmt.Errorf("finding what probes run in: %w", err)
	}
	if last := lastExec(do.Activate); last != nil {
		env.Environ = append(env.Environ, last.Env...)
		// Also as whom: what a home profile's user can write to, a probe of root
		// must not work on.
		env.User = last.User
	}
	own, err := driver.Probes(ctx, d, t.of.Path)
	if err != nil {
		return nil, env, fmt.Errorf("finding probes: %w", err)
	}
	probes := slices.Clone(t.doc.Probes)
	for _, p := range own {
		if !slices.ContainsFunc(probes, func(q fleet.Probe) bool { return q.Name == p.Name }) {
			probes = append(probes, p)
		}
	}
	return probes, env, nil
}

// lastExec is an action's last program; nil for none.
func lastExec(a driver.Action) *driver.Exec {
	for _, step := range slices.Backward(a.Steps) {
		if e := step.Exec; e != nil {
			return e
		}
	}
	return nil
}
