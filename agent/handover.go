package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// handOverWithin bounds how long an agent waits to be ended for another one: systemd
// ends it within half a minute.
const handOverWithin = time.Minute

// errNotReplaced says that nobody ended this agent, which had asked for that.
var errNotReplaced = errors.New("systemd was asked to start the agent's service anew, and did not")

// isSuccessor says whether this agent is the one that the host would start after an
// activation: only that one may call it verified. Where it is another one, that one is
// started, within the verification, so that an agent that does not work is taken back
// like anything else. Where there is none, the generation has failed.
func (w *worker) isSuccessor(ctx context.Context, act *journal.Activation, g fleet.Generation, deadline time.Duration) (bool, error) {
	if w.a.config.Service == nil || w.profile != fleet.System {
		return true, nil // No other profile has the agent's service.
	}
	st, err := w.a.config.Service.Look(ctx, act.Agent == journal.AgentStarts)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil:
		return false, w.unable(fmt.Errorf("whether this agent is the one that the host would start can't be told: %w", err), deadline)
	case st.Gone != "" && g.Policy.Agent != fleet.AgentLeaves && act.Agent != journal.AgentGone:
		w.note(func(f *facts) { f.orphaned = st.Gone })
		return false, nil
	case st.Gone != "":
		// By its policy, or it was so before: then the generation is not to blame.
		w.log.Warn("no agent would be started on this host any more", "why", st.Gone)
		return true, nil
	case st.Other == "":
		return true, nil
	}
	w.log.Info("handing over to the agent that the generation brings", "number", act.To.Ref.Number.String(), "why", st.Other)
	w.allow(ctx, act, deadline) // It has all of that.
	if err := w.a.handOver(ctx); err != nil {
		return false, w.unable(err, deadline)
	}
	return false, nil
}

// handOver has the host's service manager replace this agent, and waits for that.
func (a *Agent) handOver(ctx context.Context) error {
	if err := a.config.Service.HandOver(ctx); err != nil {
		return fmt.Errorf("handing over to another agent: %w", err)
	}
	if err := sleep(ctx, handOverWithin); err != nil {
		return err
	}
	return errNotReplaced
}

// succeed hands over to the agent that the host would start, where that is another one
// by now and nothing is in flight: after a rollback, and where a person changed it. A
// switch of NixOS restarts no agent, so that this one would go on until the host boots.
// What systemd was not told to read yet is somebody's who is not done.
func (a *Agent) succeed(ctx context.Context) {
	if a.config.Service == nil || a.inFlight() {
		return
	}
	before := a.agentStanding()
	st, err := a.config.Service.Look(ctx, false)
	if err == nil {
		a.standing.Store(&st)
	}
	switch {
	case err != nil:
		a.config.Log.Warn("whether the agent's service is another one can't be told", "error", err)
		return
	case st.Gone != "" && before != journal.AgentGone:
		a.config.Log.Warn("this agent would not be started again", "why", st.Gone)
	}
	if st.Other == "" || st.Stale {
		return
	}
	a.config.Log.Info("handing over to the agent that is installed now", "why", st.Other)
	if err := a.handOver(ctx); err != nil && ctx.Err() == nil {
		a.config.Log.Error("handing over failed", "error", err)
	}
}

// agentStanding is how the agent's service stood when it was last looked at, a minute
// ago at most.
func (a *Agent) agentStanding() journal.AgentStanding {
	st := a.standing.Load()
	switch {
	case st == nil:
		return ""
	case st.Gone != "":
		return journal.AgentGone
	case st.Starts:
		return journal.AgentStarts
	}
	return journal.AgentByHand
}

// inFlight says whether any profile is in the midst of an activation.
func (a *Agent) inFlight() bool {
	for _, p := range a.journal.State().Profiles {
		if p.Activation != nil {
			return true
		}
	}
	return false
}
