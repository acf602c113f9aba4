package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/plugin"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// work returns what carries out a plan; nil where there is nothing to do.
// Background work may take long and is cut short by its context.
func (w *worker) work(p reconcile.Plan) (do func(context.Context) error, background bool) {
	switch p.Step {
	case reconcile.StepNothing, reconcile.StepHold:
		return nil, false
	case reconcile.StepAdopt:
		return w.adopt, false
	case reconcile.StepAccept:
		return func(ctx context.Context) error { return w.accept(ctx, p) }, false
	case reconcile.StepFetch:
		return func(ctx context.Context) error { return w.fetch(ctx, p) }, true
	case reconcile.StepBuild:
		return func(ctx context.Context) error { return w.build(ctx, p) }, true
	case reconcile.StepTell:
		return func(ctx context.Context) error { return w.tell(ctx, p) }, true
	case reconcile.StepActivate:
		return func(ctx context.Context) error { return w.activate(ctx, p) }, false
	case reconcile.StepStart:
		return w.startRun, false
	case reconcile.StepWithdraw:
		return func(ctx context.Context) error { return w.withdraw(ctx, p) }, false
	case reconcile.StepAwait:
		return w.awaitRun, true
	case reconcile.StepReboot:
		return func(ctx context.Context) error { return w.reboot(ctx, p) }, true
	case reconcile.StepActivated:
		return func(context.Context) error { return w.activated() }, false
	case reconcile.StepVerify:
		return w.verify, true
	case reconcile.StepVerified:
		return func(context.Context) error { return w.verified() }, false
	case reconcile.StepCommit:
		return w.commit, true
	case reconcile.StepConfirm:
		return func(context.Context) error {
			return w.append(journal.Record{Kind: journal.KindConfirmed, Ref: p.Target})
		}, false
	case reconcile.StepRollBack:
		return func(ctx context.Context) error { return w.rollBack(ctx, p) }, false
	case reconcile.StepRolledBack:
		return func(ctx context.Context) error { return w.settle(ctx, w.rolledBack(p)) }, false
	case reconcile.StepFail:
		return func(ctx context.Context) error {
			return w.settle(ctx, journal.Record{Kind: journal.KindRollbackFailed, Reason: p.Reason})
		}, false
	}
	return nil, false
}

// rolledBack is the record of a way back that has ended. Why it began is on record already,
// and is said again where a part of the way back failed that the host can be without.
func (w *worker) rolledBack(p reconcile.Plan) journal.Record {
	r := journal.Record{Kind: journal.KindRolledBack, Degraded: w.degradedBack()}
	if p.Reason.Code == fleet.ReasonRollbackUnverified || r.Degraded != "" {
		r.Reason = backBut(p.Reason, r.Degraded)
	}
	return r
}

// target loads what a plan is about.
func (w *worker) target(p reconcile.Plan) (*desired.Opened, driver.Driver, error) {
	o, err := w.a.bound.Load().desired.Load(p.Target.Digest)
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // It says what failed.
	}
	d, err := w.a.driverOf(&o.Generation.Doc)
	return o, d, err
}

func (w *worker) accept(ctx context.Context, p reconcile.Plan) error {
	st := w.a.journal.State()
	before := st.Profile(w.profile)
	if err := w.acceptNow(p); err != nil {
		return err
	}
	// What was kept to try the one before again, or made ready for it, makes room for
	// this one. Where that one runs and all was cleared away, this one need not wait.
	if w.a.cluttered.Load() || before.Activation != nil || before.Undone.Path != "" ||
		!before.Current.Is(before.Highest) || before.Staged.Path != "" && !before.Staged.Is(before.Current.Ref) {
		w.a.prune(ctx)
	}
	return nil
}

// acceptNow raises the highest number, and the newest signed time with it, unless the
// trust root was reset since that was decided: the document is loaded by the root
// that counts now.
func (w *worker) acceptNow(p reconcile.Plan) error {
	w.a.taking.Lock()
	defer w.a.taking.Unlock()
	if err := w.a.unfinishedReset(); err != nil {
		return err
	}
	b := w.a.bound.Load()
	o, err := b.desired.Load(p.Target.Digest)
	if err != nil {
		return notRefusal(err)
	}
	return w.append(append([]journal.Record{{
		Kind: journal.KindAccept, Ref: p.Target, RevertTo: o.Generation.Doc.RevertTo, Reason: p.Reason,
	}}, w.a.floorAt(b.desired.Floor())...)...)
}

// fetch brings everything that a generation names here.
func (w *worker) fetch(ctx context.Context, p reconcile.Plan) error {
	o, d, err := w.target(p)
	if errors.Is(err, driver.ErrSource) {
		return w.fail(ctx, p, fleet.ReasonBuildFailed, err)
	}
	if err != nil {
		return err
	}
	w.a.building.RLock()
	defer w.a.building.RUnlock()
	w.a.cluttered.Store(true) // Under the lock: whoever clears away does not see it half.
	// The driver may be one of them.
	if ok, err := w.fetchPlugins(ctx, p, &o.Generation.Doc); !ok || err != nil {
		return err
	}
	blobs := o.Blobs()
	if w.builtBefore(ctx, d, o.Generation.Doc.Source) {
		blobs = o.SecretBlobs()
	}
	if ok, err := w.bring(ctx, p, blobs); !ok || err != nil {
		return err
	}
	w.note(func(f *facts) { f.fetched = p.Target.Digest })
	return nil
}

// bring fetches blobs; ok is false where that is to be tried again.
func (w *worker) bring(ctx context.Context, p reconcile.Plan, blobs []fleet.BlobRef) (ok bool, err error) {
	if err := w.a.room(blobs); err != nil {
		w.later(ctx, p, fleet.ReasonFetchFailed, err)
		return false, nil
	}
	// Profiles share the line: all at once none would get on, and the coordinator
	// bounds what one host may ask at a time.
	select {
	case w.a.fetches <- struct{}{}:
		defer func() { <-w.a.fetches }()
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	for _, ref := range blobs {
		if err := w.a.bound.Load().client.FetchBlob(ctx, w.a.blobs, ref); err != nil {
			w.later(ctx, p, fleet.ReasonFetchFailed, err)
			return false, nil
		}
	}
	return true, nil
}

// builtBefore says whether the driver has the source still, whole: then only
// its secrets need to be fetched, or, without a coordinator, to be here.
func (w *worker) builtBefore(ctx context.Context, d driver.Driver, source fleet.Source) bool {
	for _, ref := range source.Blobs() {
		if !w.a.blobs.Has(ref) {
			// A closure manifest is of no use to a driver before it is verified.
			if source.Closure() != nil {
				return false
			}
			_, err := d.Build(ctx, driver.BuildRequest{Profile: w.profile, Source: source}, nil)
			return err == nil
		}
	}
	return false
}

// later has the target tried again after a growing wait.
func (w *worker) later(ctx context.Context, p reconcile.Plan, code fleet.ReasonCode, err error) {
	if ctx.Err() != nil {
		return
	}
	why := fleet.Reason{Code: code, Message: err.Error(), Hint: "the host tries again by itself"}
	if r := (*sync.RefusedError)(nil); errors.As(err, &r) && r.Reason.Hint != "" {
		why.Hint = r.Reason.Hint
	}
	if e, ok := errors.AsType[*plugin.Error](err); ok {
		why.Code, why.Hint = e.Code, e.Hint()
	}
	if full, is := w.a.fullDisk(err); is {
		why = full
	}
	w.log.Warn("attempt failed", "reason", string(why.Code), "error", err)
	w.note(func(f *facts) {
		if f.waitFor != p.Target.Digest {
			f.waitFor, f.failed = p.Target.Digest, 0
		}
		f.wait = &wait{
			until:  awake().Add(spread(grow(w.a.config.Retry, f.failed))),
			reason: why,
		}
		f.failed++
	})
}

// buildBeside builds. A home is built by its user's nix, which takes as long as that user
// likes: so others clear away meanwhile. Its driver spares what it builds, and it has no
// secrets of its own. The caller holds the lock, shared.
func (w *worker) buildBeside(ctx context.Context, d driver.Driver, req driver.BuildRequest) (string, error) {
	if req.Source.Driver == fleet.DriverHome {
		w.a.building.RUnlock()
		defer w.a.building.RLock()
	}
	return w.buildPinned(ctx, d, req)
}

// fail remembers that a generation can't be brought to run here.
func (w *worker) fail(ctx context.Context, p reconcile.Plan, code fleet.ReasonCode, err error) error {
	st := w.a.journal.State()
	if ps := st.Profile(w.profile); ps.Current.Is(p.Target) && ps.CurrentVerified() {
		// It works here, and was only to be activated once more.
		w.later(ctx, p, code, err)
		return nil
	}
	w.log.Warn("generation failed", "number", p.Target.Number.String(), "reason", string(code), "error", err)
	return w.append(journal.Record{Kind: journal.KindFailed, Ref: p.Target, Reason: fleet.Reason{
		Code: code, Message: err.Error(), Hint: "mend the source and publish a new generation",
	}})
}

// build makes a generation ready, with its secrets, and records that it is.
func (w *worker) build(ctx context.Context, p reconcile.Plan) error {
	o, d, err := w.target(p)
	if err != nil {
		return err
	}
	req := driver.BuildRequest{
		Profile: w.profile, Source: o.Generation.Doc.Source, Blobs: map[fleet.Digest]string{},
	}
	for _, ref := range o.Generation.Doc.Source.Blobs() {
		req.Blobs[ref.Digest] = w.a.blobs.Path(ref.Digest)
	}
	defer w.prepareRun(ctx)()
	w.a.building.RLock()
	defer w.a.building.RUnlock()
	if err := w.checkBlobs(o.Blobs()); err != nil {
		w.refetch(p)
		w.later(ctx, p, fleet.ReasonFetchFailed, err)
		return nil
	}
	path, err := w.buildBeside(ctx, d, req)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, driver.ErrSource):
		return w.fail(ctx, p, fleet.ReasonBuildFailed, err)
	case err != nil:
		w.refetch(p)
		w.later(ctx, p, fleet.ReasonBuildFailed, err)
		return nil
	}
	if _, ours := w.a.config.places(); ours && w.profile == fleet.System {
		if err := secrets.CheckSystem(path); err != nil {
			return w.fail(ctx, p, fleet.ReasonSecretsFailed, err)
		}
	}
	built := journal.Built{Ref: p.Target, Path: path, Driver: req.Source.Driver, Source: sourceDigest(req.Source)}
	if built.Secrets, err = w.prepareSecrets(ctx, o); err != nil {
		w.refetch(p)
		w.later(ctx, p, fleet.ReasonSecretsFailed, err)
		return nil
	}
	record := journal.Record{Kind: journal.KindStaged, Built: &built, Reason: p.Reason}
	if o.Secrets != nil {
		record.Floors, record.RevokedBefore = o.Secrets.Doc.Floors, o.Secrets.Doc.RevokedBefore
	}
	if err := w.append(record); err != nil {
		return err
	}
	w.note(func(f *facts) { f.built, f.damaged, f.wait, f.failed = p.Target.Digest, "", nil, 0 })
	return nil
}

// checkBlobs reads the blobs that are here before anybody else does: what a
// rotten one says must not count as the source's own fault.
func (w *worker) checkBlobs(refs []fleet.BlobRef) error {
	var errs []error
	for _, ref := range refs {
		if err := w.a.blobs.Check(ref); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// refetch forgets that the target's blobs are here; after a second failure in a
// row they are suspected themselves.
func (w *worker) refetch(p reconcile.Plan) {
	w.mu.Lock()
	suspect := w.facts.waitFor == p.Target.Digest && w.facts.failed > 0
	w.mu.Unlock()
	if suspect {
		if err := w.a.blobs.Prune(nil); err != nil {
			w.log.Warn("removing suspect blobs failed", "error", err)
		}
	}
	w.note(func(f *facts) {
		if f.fetched == p.Target.Digest {
			f.fetched = ""
		}
	})
}

func (w *worker) prepareSecrets(ctx context.Context, o *desired.Opened) (string, error) {
	// One may be there only for what it revokes.
	if o.Secrets == nil || len(o.Secrets.Doc.Entries) == 0 {
		return "", nil
	}
	return w.prepareRaised(ctx, o.Secrets.Doc, o.Secrets.Digest)
}

// prepareRaised prepares what the host may have of a manifest.
func (w *worker) prepareRaised(ctx context.Context, m fleet.SecretsManifest, digest fleet.Digest) (string, error) {
	r, err := w.a.raiser(w.profile)
	if err == nil {
		m, digest, err = r.raise(m, digest)
	}
	if err != nil {
		return "", err
	}
	return secrets.Prepare(ctx, w.a.config.secretsRoot(w.profile), m, digest, //nolint:wrapcheck // It says what failed.
		ciphertexts(w.a.blobs), w.a.identity.AgeIdentities())
}

// raised is a generation that ran, with the secrets that it may have now. What its
// directory has below a floor stays there until it is left.
func (w *worker) raised(ctx context.Context, b journal.Built) (journal.Built, error) {
	st := w.a.journal.State()
	floors := secrets.Floors(st.Profile(w.profile).Floors)
	if b.Secrets == "" || b.Ref.Digest == "" || len(floors) == 0 {
		return b, nil
	}
	m, digest, err := w.a.bound.Load().desired.LoadAcceptedSecrets(b.Ref.Digest)
	if err == nil && m != nil && !floors.Above(m.Entries) {
		w.a.building.RLock()
		defer w.a.building.RUnlock()
		b.Secrets, err = w.prepareRaised(ctx, *m, digest)
	}
	if err != nil {
		return b, fmt.Errorf("secrets of the way back to generation %s: %w", b.Ref.Number, err)
	}
	return b, nil
}

// withdraw records that what was to be activated never began and may not now.
func (w *worker) withdraw(ctx context.Context, p reconcile.Plan) error {
	w.log.Warn("not starting what was to be activated", "number", p.Target.Number.String(), "reason", string(p.Reason.Code))
	st := w.a.journal.State()
	act := st.Profile(w.profile).Activation
	if err := w.append(journal.Record{Kind: journal.KindWithdrawn, Reason: p.Reason}); err != nil {
		return err
	}
	w.note(func(f *facts) { f.bootAllowed = "" }) // That was for now.
	w.disarm(ctx, act)
	return nil
}

// startRun starts the action in flight, whose intent is in the journal. That it
// may start was decided just now, by the documents as they are now.
func (w *worker) startRun(ctx context.Context) error {
	st := w.a.journal.State()
	p := st.Profile(w.profile)
	act := p.Activation
	if act == nil {
		return nil
	}
	id, action := activateRun(act), act.Activate
	if p.Phase == journal.PhaseRollingBack {
		id, action = w.nextRollback(act), act.Rollback
	}
	if p.Phase == journal.PhaseRollingBack {
		w.rearm(ctx, act)
		w.allow(ctx, act, reconcile.MaxRollBackAttempts*deadlineOr(act.Rollback))
	} else if err := errors.Join(w.openSwitch(), w.arm(ctx, act)); err != nil {
		return err
	}
	w.begins.Lock()
	defer w.begins.Unlock()
	if w.moved && p.Phase != journal.PhaseRollingBack {
		return nil // Somebody has put it off. The next decision says so.
	}
	w.log.Info("starting", "run", id)
	err := w.a.executor.Start(ctx, id, action, w.a.runEnv(w.profile))
	if errors.Is(err, execute.ErrExists) {
		return nil // Status tells where it is.
	}
	return err //nolint:wrapcheck // It says what failed.
}

// nextRollback names the first rollback that never began.
func (w *worker) nextRollback(act *journal.Activation) string {
	for n := 1; ; n++ {
		id := rollbackRun(act, n)
		st, err := w.a.executor.Status(id)
		if n == reconcile.MaxRollBackAttempts || err == nil && st.Phase == execute.PhaseAbsent {
			return id
		}
	}
}

// awaitRun waits for the end of the run in flight. When the agent stops, the
// run goes on.
func (w *worker) awaitRun(ctx context.Context) error {
	st := w.a.journal.State()
	p := st.Profile(w.profile)
	if p.Activation == nil {
		return nil
	}
	w.rearm(ctx, p.Activation)
	id := activateRun(p.Activation)
	if p.Phase == journal.PhaseRollingBack {
		c := &reconcile.Change{}
		w.rollback(c, p.Activation, facts{})
		id = rollbackRun(p.Activation, max(c.Attempts, 1))
	}
	res, err := w.a.executor.Wait(ctx, id)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	crashpoint.Hit(crashpoint.RunEnded)
	run, detail := outcome(w.profile, res)
	w.log.Info("run ended", "run", id, "outcome", string(res.Outcome), "detail", detail)
	w.note(func(f *facts) { f.runID, f.run = id, &runEnd{run: run, detail: detail} })
	return nil
}
