package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// maxCommits bounds the attempts at a commit whose end is unknown.
const maxCommits = 3

// commit runs what a driver does once the new state is verified, such as making
// it what boots. Where that fails the host goes back: a state that is gone after
// the next boot is not what was asked for. It MUST be repeatable, as the driver's
// commits are: one that was interrupted is run again.
func (w *worker) commit(ctx context.Context) error {
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	act := ps.Activation
	if act == nil {
		return nil
	}
	done := journal.Record{Kind: journal.KindCommitted}
	if act.Commit.IsZero() {
		return w.settle(ctx, done)
	}
	if other, strayed := w.strayed(ctx, act.To); strayed && !w.specialises(act.To) {
		return w.uncommitted(reconcile.RunLost, "before it was made what boots, "+other.Path+" came to run")
	}
	for n := 1; ; n++ {
		id := commitRun(act, n)
		if err := w.a.executor.StartCommit(ctx, id, act.Commit, w.a.runEnv(w.profile)); err != nil && !errors.Is(err, execute.ErrExists) {
			return err //nolint:wrapcheck // It says what failed.
		}
		res, err := w.a.executor.Wait(ctx, id)
		if err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
		run, detail := outcome(w.profile, res)
		switch {
		case run == reconcile.RunSucceeded:
			return w.settle(ctx, done)
		case run == reconcile.RunLost && n < maxCommits:
			w.log.Warn("committing was interrupted; it is done again", "run", id, "detail", detail)
			continue
		}
		return w.uncommitted(run, "it works, and could not be made what boots: "+detail)
	}
}

// specialises says whether a specialisation of what was built runs.
func (w *worker) specialises(built journal.Built) bool {
	is, _ := w.runs(built)
	return is
}

// uncommitted records the intent to go back from what was verified.
func (w *worker) uncommitted(run reconcile.Run, why string) error {
	reason := fleet.Reason{
		Code: fleet.ReasonActivationFailed, Message: why, Hint: "see fleet-agent logs on the host, and publish a mended release",
	}
	if run == reconcile.RunLost {
		reason.Code, reason.Hint = fleet.ReasonActivationUnknown, "the host tries again by itself"
	}
	st := w.a.journal.State()
	if act := st.Profile(w.profile).Activation; act != nil && act.Undoes != nil && run != reconcile.RunLost {
		reason.Code = fleet.ReasonCorrectionFailed
	}
	w.log.Error("committing failed; rolling back", "detail", why)
	w.note(func(f *facts) { f.runID, f.run = "", nil })
	return w.append(journal.Record{Kind: journal.KindRollingBack, Reason: reason, Blameless: reconcile.Blameless(reason)})
}

// strayed says that something else runs than what is on record, because of a
// person or a boot, and what.
func (w *worker) strayed(ctx context.Context, recorded journal.Built) (journal.Built, bool) {
	if recorded.Path == "" {
		return journal.Built{}, false
	}
	name, d, err := w.maker(recorded)
	if err != nil {
		return journal.Built{}, false
	}
	path, err := d.Current(ctx, w.profile)
	if err != nil || path == "" || path == recorded.Path {
		return journal.Built{}, false // What can't be told is taken to be as recorded.
	}
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	for _, known := range slices.Backward(ps.History) {
		if known.Path == path {
			// Its secrets may be pruned; a person who switched left those that are linked.
			known.Secrets = recorded.Secrets
			return known.Built, true
		}
	}
	return journal.Built{Path: path, Driver: name, Secrets: recorded.Secrets}, true
}
