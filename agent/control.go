package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

var _ control.Host = (*Agent)(nil)

func (a *Agent) runsDir() string { return filepath.Join(a.config.StateDir, runsDir) }

// Status says where the host is and why.
func (a *Agent) Status(context.Context) (control.Status, error) {
	poke(a.looks)
	return a.snapshot(), nil
}

// Pause keeps activations from starting, across restarts, until Resume.
func (a *Agent) Pause(_ context.Context, reason, actor string) error {
	return a.record(journal.Record{Kind: journal.KindPaused, Reason: fleet.Reason{Code: fleet.ReasonPaused, Message: reason}, Actor: actor})
}

// Resume lifts a pause.
func (a *Agent) Resume(_ context.Context, actor string) error {
	return a.record(journal.Record{Kind: journal.KindResumed, Actor: actor})
}

func (a *Agent) record(r journal.Record) error {
	if err := a.journal.Append(r); err != nil {
		return a.hinted(err, "make room on this host's disk, then ask again: nothing changed")
	}
	a.wakeAll()
	a.link.wantReport()
	return nil
}

func (a *Agent) enrolled() (*bound, error) {
	b := a.bound.Load()
	if b == nil {
		return nil, control.NotPossible("make a join string with fleetctl token, then run fleet-agent enrol with it", "this host is not enrolled")
	}
	return b, nil
}

func (a *Agent) known(p fleet.ProfileName) (*worker, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[p]
	if w == nil {
		return nil, control.NotPossible("fleet-agent status lists the profiles", "this host has no profile %s", p)
	}
	return w, nil
}

// mayAct refuses what would activate something, where the agent was told not to.
// A signed policy to observe is no such order: a person at the machine may act.
func (a *Agent) mayAct() error {
	if a.config.Observe {
		return control.NotPossible("restart it without --observe", "this agent runs with --observe, and activates nothing")
	}
	return nil
}

// acting is what a person's word about a profile needs, where it may have
// something activated.
func (a *Agent) acting(p fleet.ProfileName) (*bound, *worker, error) {
	b, err := a.enrolled()
	if err != nil {
		return nil, nil, err
	}
	w, err := a.known(p)
	if err != nil {
		return nil, nil, err
	}
	return b, w, a.mayAct()
}

// Retry forgets that what is desired failed or was refused, and ends waits.
func (a *Agent) Retry(_ context.Context, p fleet.ProfileName, actor string) (control.Retried, error) {
	var none control.Retried
	b, w, err := a.acting(p)
	if err != nil {
		return none, err
	}
	pardoned, err := w.pardon(b)
	if err != nil {
		return none, err
	}
	st := a.journal.State()
	ps := st.Profile(p)
	d, _ := b.desired.Desired(b.host(p, ps.Highest), a.now())
	if d.Target == nil {
		nothing := "nothing is desired of this profile"
		if d.Refusal.Code != "" {
			nothing = "nothing that this host may run is desired: " + d.Refusal.Message
		}
		return none, control.NotPossible(fallback(d.Refusal.Hint, "publish a generation"), "%s", nothing)
	}
	again := control.Retried{Target: *d.Target}
	forgive := forgivable(ps, d.Target.Digest)
	drifted := w.correctNow(b, ps, *d.Target)
	if c := ps.Corrected; c != nil && c.Digest == d.Target.Digest && (drifted != "" || ps.Phase == journal.PhaseStuck) {
		forgive = append(forgive, c.Digest)
	}
	if drifted != "" {
		again.Waited = fleet.Reason{Code: fleet.ReasonOverridden, Message: drifted}
	}
	if len(forgive) == 0 && !pardoned && drifted == "" {
		if again.Waited = w.waiting(d.Target.Digest); again.Waited.Code == "" {
			return none, a.nothingRefused(p)
		}
	}
	for _, d := range forgive {
		if err := w.append(journal.Record{
			Kind: journal.KindForgiven, Digest: d, Actor: actor,
			Reason: fleet.Reason{Code: fleet.ReasonNewGeneration, Message: "retried by " + actor},
		}); err != nil {
			return none, err
		}
	}
	if reconcile.WaitsForConsole(reconcile.Plan{Reason: again.Waited}) {
		if err := w.beginNow(d.Target.Digest); err != nil {
			return none, err
		}
	}
	w.forgive()
	return again, nil
}

// forgivable are the refusals that keep target from being tried.
func forgivable(ps journal.ProfileState, target fleet.Digest) []fleet.Digest {
	var ds []fleet.Digest
	if _, refused := ps.IsRefused(target); refused {
		ds = append(ds, target)
	}
	// What a host is stuck on keeps everything else from being tried.
	if _, refused := ps.IsRefused(ps.Ref.Digest); refused && ps.Phase == journal.PhaseStuck && ps.Ref.Digest != target {
		ds = append(ds, ps.Ref.Digest)
	}
	return ds
}

// waiting is why the next attempt at target, or at verifying what was kept, is
// put off.
func (w *worker) waiting(target fleet.Digest) fleet.Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch f, plan := w.facts, w.said.plan; {
	case f.wait != nil && f.waitFor == target && awake().Before(f.wait.until):
		return f.wait.reason
	case plan.Step == reconcile.StepVerify, reconcile.WaitsForConsole(plan):
		return plan.Reason
	}
	return fleet.Reason{}
}

// nothingRefused says where a profile is that a retry would change nothing of.
func (a *Agent) nothingRefused(p fleet.ProfileName) error {
	where := control.Profile{}
	for _, q := range a.snapshot().Profiles {
		if q.Profile == p {
			where = q
		}
	}
	text := string(where.State)
	if m := where.Reason.Message; m != "" {
		text += ": " + m
	}
	return ui.WithHint(fmt.Errorf("%w: %s is %s", control.ErrNothingRefused, p, text),
		fallback(where.Reason.Hint, "fleet-agent status shows where this host is and why"))
}

// Logs returns the output of the newest activation of a profile, the
// rollback's included.
func (a *Agent) Logs(_ context.Context, p fleet.ProfileName) (io.ReadCloser, error) {
	return openLogs(p, a.runsDir(), runsIn(a.runsDir(), p), a.executor.Log)
}

// openLogs joins the logs of all runs of the newest activation.
func openLogs(p fleet.ProfileName, dir string, runs []string, path func(string) string) (io.ReadCloser, error) {
	if len(runs) == 0 {
		return nil, control.NotPossible("", "nothing of %s was activated yet: there is no log of it below %s", p, dir)
	}
	newest := activationOf(runs[len(runs)-1])
	var l logs
	for _, id := range runs {
		if activationOf(id) != newest {
			continue
		}
		f, err := os.Open(path(id))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading log: %w", err), l.Close())
		}
		l.files = append(l.files, f)
		// Which run it is: one that printed nothing is an answer too.
		l.readers = append(l.readers, strings.NewReader("── "+id+"\n"), f)
	}
	l.Reader = io.MultiReader(l.readers...)
	return &l, nil
}

type logs struct {
	io.Reader
	files   []*os.File
	readers []io.Reader
}

// Close closes all files.
func (l *logs) Close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
