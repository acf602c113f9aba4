package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// keptTransitions is how many transitions of a host are kept beside the
	// event log: slots that are used in turn.
	keptTransitions = 100
	// reportChunk is how many transitions one transaction takes: an event, a
	// slot each, the status and the report.
	reportChunk = 40
	// keepEvery bounds how often a report without transitions is kept as it was
	// signed: a host keeps another head of the event log once a day.
	keepEvery = time.Hour
)

// Report takes a report whose signature and shape were checked, and returns
// the highest transition that is durable. Transitions that were taken before
// are skipped, so that a host may send again what it got no answer to. A
// report without news of transitions is written with the next Flush, and kept as
// it was signed only where the kept one says less of the event log. Errors:
// ErrDuplicate, ErrTooOften.
func (r *Registry) Report(ctx context.Context, name fleet.MachineName, report *fleet.Report, envelope []byte) (acked uint64, err error) {
	e := r.entry(name)
	e.change.Lock()
	defer e.change.Unlock()
	if err := r.checkReporter(ctx, e, report); err != nil {
		return 0, err
	}
	r.touch(e)
	old := e.host.Load().Observed
	next, fresh := old.Apply(report)
	var newest fleet.LogHead
	if n := len(report.LogHeads); n > 0 {
		newest = report.LogHeads[n-1].LogHead
	}
	if old.Instance == report.InstanceID && report.Acked > old.Acked {
		// The host never takes the number of an acknowledgement back, so this
		// store did.
		r.alarm(ctx, name, KindOlder, fmt.Sprintf("the host was acknowledged up to transition %d, this store knows of %d: it was restored from an older backup; what came between is only on the host and in the fleet's repository",
			report.Acked, old.Acked))
	}
	if len(fresh) == 0 {
		now := r.o.Now()
		// Reports of one host may overtake each other.
		newer := newest != old.LogHead && !newest.IsZero() && !report.Time.Before(old.Reported)
		if old.Instance == "" || newer && now.Sub(e.kept).Abs() >= keepEvery {
			// What the host signed last may be old: it has nothing new to tell for long
			// perhaps, and operators compare what it says with what they know.
			if _, err := r.o.Store.Txn(ctx, nil, []store.Op{{Key: reportPrefix + string(name), Value: envelope}}); err != nil {
				return 0, fmt.Errorf("writing a report of %s: %w", name, err)
			}
			next.LogHead = newest
			if !newest.IsZero() {
				e.kept = now
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if !sameStatus(old, next) || next.Acked != old.Acked || next.LogHead != old.LogHead {
			r.pendingObserved[name] = true
		}
		e.updateLocked(func(h *Host) { h.Observed = next })
		if old.Instance == report.InstanceID {
			return old.Acked, nil // What this store held, so that the host sees that it is older.
		}
		return next.Acked, nil
	}
	if err := r.spend(e, len(fresh)); err != nil {
		return 0, fmt.Errorf("taking %d transitions of %s: %w", len(fresh), name, err)
	}
	next.LogHead = newest
	unspent := len(fresh)
	defer func() { r.refund(e, unspent) }()
	// Before the first, there is nothing that it could follow on: a store that was
	// lost does not know what was acknowledged to it.
	known := max(old.Acked, report.Acked)
	gap := old.Acked > 0 && fresh[0].Seq > known+1 && old.Instance == report.InstanceID
	for i, chunk := range slices.Collect(slices.Chunk(fresh, reportChunk)) {
		next.Acked = chunk[len(chunk)-1].Seq
		c, err := reportChange(name, next, chunk)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			// Only once: it is the same for every chunk.
			c.Ops = append(c.Ops, store.Op{Key: reportPrefix + string(name), Value: envelope})
		}
		if i == 0 && gap {
			c.Entries = append(c.Entries, audit.Entry{
				Actor: "host/" + string(name), Kind: KindGap, Machine: name,
				Message: fmt.Sprintf("transitions %d to %d are not here: the host was away for too long and dropped them, or sent them to a store that was lost", known+1, fresh[0].Seq-1),
			})
		}
		if err := r.o.Log.Commit(ctx, c); err != nil {
			return 0, fmt.Errorf("writing a report of %s: %w", name, err)
		}
		unspent -= len(chunk)
		r.update(e, func(h *Host) { h.Observed = next })
	}
	return next.Acked, nil
}

// checkReporter refuses a report of another instance than the running one.
func (r *Registry) checkReporter(ctx context.Context, e *entry, report *fleet.Report) error {
	r.mu.Lock()
	err := r.checkInstanceLocked(e, report.InstanceID, r.o.Now())
	if err == nil {
		e.heard = r.o.Now()
	}
	if err == nil && e.host.Load().Hello.Instance != report.InstanceID {
		e.updateLocked(func(h *Host) {
			h.Hello = Hello{Instance: report.InstanceID, Boot: report.BootID, Version: report.AgentVersion}
		})
	}
	r.mu.Unlock()
	if err != nil {
		r.alarm(ctx, report.Machine, KindDuplicate, err.Error())
	}
	return err
}

// reportChange is the change that makes transitions durable.
func reportChange(name fleet.MachineName, o Observed, fresh []fleet.Transition) (audit.Change, error) {
	var c audit.Change
	op, err := put(observedPrefix+string(name), o)
	if err != nil {
		return c, err
	}
	c.Ops = append(c.Ops, op)
	for _, t := range fresh {
		// Within one chunk slots differ: it is shorter than there are slots.
		op, err := put(fmt.Sprintf("%s%s/%02d", transitionPrefix, name, t.Seq%keptTransitions), t)
		if err != nil {
			return c, err
		}
		if !slices.ContainsFunc(c.Ops, func(o store.Op) bool { return o.Key == op.Key }) {
			c.Ops = append(c.Ops, op)
		}
		c.Entries = append(c.Entries, audit.Entry{
			Actor: "host/" + string(name), Kind: KindTransition, Machine: name,
			Message: describe(t), Alarm: alarming(t),
		})
	}
	return c, nil
}

// describe tells of a transition in one line.
func describe(t fleet.Transition) string {
	s := fmt.Sprintf("%s: %s", t.Profile, t.State)
	if !t.Ref.IsZero() {
		s += " generation " + t.Ref.Number.String()
		if t.Ref.Release != "" {
			s += " of " + string(t.Ref.Release)
		}
	}
	if t.Reason.Code == fleet.ReasonNewGeneration {
		return s // The release was announced when it was committed.
	}
	if t.Reason.Code != "" {
		s += " (" + string(t.Reason.Code) + ")"
	}
	if t.Reason.Message != "" {
		s += ": " + t.Reason.Message
	}
	return s
}

// alarming says whether somebody should look at a transition.
func alarming(t fleet.Transition) bool {
	if c := t.Reason.Code; c == fleet.ReasonAppliedByHand || c == fleet.ReasonTrustReset || c == fleet.ReasonJournalRecovered {
		return true // Somebody broke the glass.
	}
	switch t.State {
	case fleet.StateRolledBack, fleet.StateFailed:
		return t.Reason.Code != fleet.ReasonOperatorRefused // A person did that.
	case fleet.StateIdle, fleet.StateFetching, fleet.StateBuilding, fleet.StateStaged, fleet.StateActivating,
		fleet.StateVerifying, fleet.StateVerified, fleet.StateConfirmed, fleet.StateRollingBack, fleet.StateHeld:
	}
	return false
}
