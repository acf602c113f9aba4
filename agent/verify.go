package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/probe"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
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
)

// verify probes the new generation and reaches for the coordinator over a new
// connection, both until they succeed or the deadline, in time awake, is over.
func (w *worker) verify(ctx context.Context) error {
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	act := ps.Activation
	if act == nil {
		return nil
	}
	w.rearm(ctx, act)
	w.mu.Lock()
	if w.facts.verifyID != act.ID {
		f := &w.facts
		f.verifyID, f.probes, f.probeDetail, f.reached, f.overdue, f.again, f.unable = act.ID, "", "", false, false, 0, time.Time{}
		f.orphaned = ""
	}
	late := w.facts.overdue
	w.mu.Unlock()
	g, err := w.a.bound.Load().desired.LoadAccepted(act.To.Ref.Digest)
	if err != nil {
		return w.unable(err, fleet.DefaultVerify)
	}
	deadline := g.Policy.VerifyDeadline.Or(fleet.DefaultVerify)
	if late {
		// By policy: the switch must not take it back.
		if ok, err := w.settleSwitch(act, deadman.Kept); !ok || err != nil {
			w.wake()
			return err
		}
		// Kept although it is overdue: look again, ever more rarely.
		w.mu.Lock()
		wait := min(againMax, max(w.a.config.Retry.First, time.Second)<<min(w.facts.again, 6))
		w.facts.again++
		w.mu.Unlock()
		if err := sleepOr(ctx, spread(wait)+wait/2, w.back); err != nil {
			return err
		}
	}
	if ok, err := w.isSuccessor(ctx, act, g, deadline); !ok || err != nil {
		return err
	}
	if late {
		deadline = min(deadline, 10*time.Second)
	} else {
		w.allow(ctx, act, deadline)
	}
	return w.verifyWithin(ctx, act, g, deadline)
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

func (w *worker) verifyWithin(ctx context.Context, act *journal.Activation, g fleet.Generation, deadline time.Duration) error {
	probes, env, err := w.probes(ctx, act, g)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return w.unable(err, g.Policy.VerifyDeadline.Or(fleet.DefaultVerify))
	}
	began, beganAwake := w.a.config.Now(), awake()
	w.expect(probes, began.Add(deadline))
	defer w.unexpect()
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var verdict fleet.Verdict
	var why fleet.Reason
	var reached bool
	eg, limited := errgroup.WithContext(limited)
	eg.Go(func() error {
		verdict, why = probe.Verify(ctx, probes, deadline, w.watched(probe.In(env)))
		return nil
	})
	eg.Go(func() error {
		if reached = w.reach(limited); reached {
			w.arrived()
		}
		return nil
	})
	if err := eg.Wait(); err != nil {
		return err //nolint:wrapcheck // None returns one.
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	w.log.Info("verification", "probes", string(verdict), "detail", why.Message, "reached", reached)
	if (verdict != fleet.VerdictPass || !reached) && sleptSince(began, beganAwake, w.a.config.Now()) {
		// A network takes a while to come back: what failed around a sleep says
		// nothing, and is tried for the whole deadline again.
		return nil
	}
	w.note(func(f *facts) {
		f.probes, f.probeDetail = verdict, why.Message
		f.reached = reached
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
	return w.append(recs...)
}

// reach reports over a new connection until the coordinator answers or ctx
// ends. A refusal is an answer: a coordinator with a full disk says nothing
// against the host. That it acknowledged is needed for confirmed only.
func (w *worker) reach(ctx context.Context) bool {
	b := w.a.bound.Load()
	for wait := reachFirst; ; wait = min(2*wait, reachMax) {
		_, err := w.a.report(ctx, b, b.client.Reach)
		// A refusal is an answer, also one for want of room on the coordinator's
		// disk; and a full disk here is not the network's fault.
		if refused := (*sync.RefusedError)(nil); err == nil || errors.As(err, &refused) || errors.Is(err, errAckNotKept) {
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
func (w *worker) probes(ctx context.Context, act *journal.Activation, g fleet.Generation) ([]fleet.Probe, probe.Env, error) {
	env := probe.Env{Path: act.To.Path, Environ: w.a.runEnv(w.profile)}
	env.Plugin = w.pluginProbe(g, act.To.Path)
	d, err := w.a.driverOf(&g)
	if err != nil {
		return nil, env, err
	}
	// What a plugin said before the activation, so that none is needed to verify
	// what it built.
	do := driver.Activation{Activate: act.Activate}
	if fleet.IsBuiltinDriver(g.Source.Driver) {
		do, err = d.Activation(ctx, w.profile, "", act.To.Path)
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
	own, err := driver.Probes(ctx, d, act.To.Path)
	if err != nil {
		return nil, env, fmt.Errorf("finding probes: %w", err)
	}
	probes := slices.Clone(g.Probes)
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
