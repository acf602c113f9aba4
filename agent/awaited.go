package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/probe"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// awaited is what a verification that runs still waits for.
type awaited struct {
	until   time.Time // wall time, for people
	probes  []awaitedProbe
	reached bool
}

// awaitedProbe is a probe that has not passed yet, and what it said last.
type awaitedProbe struct{ name, detail string }

// reason says what is waited for, by the first probe that said something.
func (a *awaited) reason() fleet.Reason {
	const coordinator = "the coordinator, over a new connection"
	what := ""
	switch n := len(a.probes); {
	case n > 0:
		p := a.probes[max(0, slices.IndexFunc(a.probes, func(p awaitedProbe) bool { return p.detail != "" }))]
		what = fmt.Sprintf("probe %q", p.name)
		if p.detail != "" {
			what += " (" + p.detail + ")"
		}
		if n > 1 {
			what += fmt.Sprintf(" and %d more", n-1)
		}
		if !a.reached {
			what += ", and for " + coordinator
		}
	case !a.reached:
		what = coordinator
	default:
		return fleet.Reason{}
	}
	return fleet.Reason{
		Code: fleet.ReasonVerifying, Message: fmt.Sprintf("waits for %s, until %s at the latest", what, a.until.UTC().Format("15:04:05 MST")),
	}
}

// expect notes what a verification waits for from now on.
func (w *worker) expect(probes []fleet.Probe, until time.Time) {
	next := &awaited{until: until}
	for _, p := range probes {
		next.probes = append(next.probes, awaitedProbe{name: p.Name})
	}
	w.mu.Lock()
	w.facts.awaited = next
	w.mu.Unlock()
	w.a.link.wantReport()
}

// unexpect notes that the verification has ended.
func (w *worker) unexpect() {
	w.mu.Lock()
	w.facts.awaited = nil
	w.mu.Unlock()
}

// watched is a runner that notes what probes say. What is reported is that one
// has something to say and that it passed, not each attempt.
func (w *worker) watched(run probe.Runner) probe.Runner {
	return func(ctx context.Context, p fleet.Probe) (fleet.Verdict, string) {
		verdict, detail := run(ctx, p)
		if ctx.Err() != nil {
			return verdict, detail
		}
		news := false
		w.mu.Lock()
		if a := w.facts.awaited; a != nil {
			i := slices.IndexFunc(a.probes, func(q awaitedProbe) bool { return q.name == p.Name })
			switch {
			case i < 0:
			case verdict == fleet.VerdictPass:
				news = a.probes[i].detail != ""
				a.probes = slices.Delete(a.probes, i, i+1)
			default:
				news = a.probes[i].detail == ""
				a.probes[i].detail = detail
			}
		}
		w.mu.Unlock()
		if news {
			w.a.link.wantReport()
		}
		return verdict, detail
	}
}

// arrived notes that the coordinator answered over a new connection: it was told
// that it had not.
func (w *worker) arrived() {
	w.mu.Lock()
	a := w.facts.awaited
	waits := a != nil && len(a.probes) > 0
	if a != nil {
		a.reached = true
	}
	w.mu.Unlock()
	if waits {
		w.a.link.wantReport()
	}
}

// awaits is what the verification that runs waits for; empty where none does.
func (w *worker) awaits() fleet.Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.facts.awaited == nil {
		return fleet.Reason{}
	}
	return w.facts.awaited.reason()
}
