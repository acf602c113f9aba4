package agent

import (
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// activated records that an activation ended well, with what failed of it that the host
// can be without.
func (w *worker) activated() error {
	r := journal.Record{Kind: journal.KindActivated}
	st := w.a.journal.State()
	if act := st.Profile(w.profile).Activation; act != nil {
		if what := w.degradedIn(activateRun(act)); what != "" {
			r.Reason = degraded(what)
			w.log.Warn("activated, but for a part that the host can be without", "what", what)
		}
	}
	return w.append(r)
}

// degradedBack is what failed of the way back, whose newest run counts, that the host can be
// without.
func (w *worker) degradedBack() (what string) {
	st := w.a.journal.State()
	act := st.Profile(w.profile).Activation
	if act == nil {
		return ""
	}
	c := reconcile.Change{}
	w.rollback(&c, act, facts{})
	if c.Attempts == 0 {
		return "" // It is back by a boot.
	}
	if what = w.degradedIn(rollbackRun(act, c.Attempts)); what != "" {
		w.log.Warn("went back, but for a part that the host can be without", "what", what)
	}
	return what
}

// degradedIn is what a run that ended well says of the parts that failed in it.
func (w *worker) degradedIn(id string) string {
	run, err := w.a.executor.Status(id)
	switch {
	case err != nil:
		w.log.Warn("whether a part of what was done failed can't be told", "run", id, "error", err)
	case run.Phase == execute.PhaseDone && run.Result.Outcome == execute.OutcomeOK:
		return run.Result.Degraded
	}
	return ""
}

// backBut is why a host went back, with what failed of that and the host can be without;
// what may be empty.
func backBut(why fleet.Reason, what string) fleet.Reason {
	if what != "" && !strings.Contains(why.Message, what) {
		why.Message += "; it went back, but for a part that the host can be without: " + what
	}
	return why
}

// degraded is what is to be said of a profile that is as desired, but for that.
func degraded(what string) fleet.Reason {
	return fleet.Reason{
		Code: fleet.ReasonDegraded, Message: what,
		Hint: "all else of the generation runs; fleet-agent logs on the host says why, and once the cause is gone the next activation does it, or /run/current-system/activate by hand",
	}
}
