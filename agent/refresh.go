package agent

import (
	"context"
	"errors"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// refreshEnd is how a question what is desired ended.
type refreshEnd int

const (
	// unanswered: the coordinator did not answer, or refused to.
	unanswered refreshEnd = iota
	// notKept: this host could not keep the answer, as on a full disk.
	notKept
	// refreshed: it is kept, or refused for what it says.
	refreshed
)

// refresh asks once, and keeps what is admissible. It returns an error only
// where no journal can be written any more.
func (a *Agent) refresh(ctx context.Context, b *bound) (refreshEnd, error) {
	got, err := b.client.GetDesired(ctx, b.desired.RootVersion())
	if err != nil {
		if ctx.Err() == nil {
			a.config.Log.Warn("asking what is desired failed", "error", err)
			a.link.note(troubleDesired, sync.ReasonOf(err))
		}
		return unanswered, nil
	}
	a.link.note(troubleDesired, fleet.Reason{})
	a.link.answered(a.config.Now())
	err = a.take(b, got)
	a.judgeAge(b, got)
	kept, nerr := a.logHeads.note(b.fleet, got.LogHead, a.config.Now())
	if nerr != nil {
		a.config.Log.Warn("the head of the coordinator's event log could not be kept", "error", nerr)
	}
	if kept {
		a.link.wantReport()
	}
	if errors.Is(err, journal.ErrBroken) || errors.Is(err, journal.ErrClosed) {
		return notKept, err
	}
	a.noteDamage(b.desired.Damage())
	if a.noteLocal(err) {
		a.link.wantReport()
	}
	a.wakeAll()
	if err != nil {
		a.config.Log.Error("what is desired could not be kept; it is tried again", "error", err)
		return notKept, nil
	}
	return refreshed, nil
}

// noteLocal remembers what keeps this host from taking what is desired, and
// says whether that is news.
func (a *Agent) noteLocal(err error) bool {
	why := fleet.Reason{}
	if err != nil {
		why = fleet.Reason{
			Code: fleet.ReasonInternal, Message: "what is desired could not be kept: " + err.Error(), Hint: desired.LocalHint,
		}
	}
	if full, is := a.fullDisk(err); is {
		full.Message = "what is desired could not be kept: " + full.Message
		why = full
	}
	was := a.link.trouble(troubleLocal)
	a.link.note(troubleLocal, why)
	return was.Code != why.Code
}

// noteDamage remembers for the status that signed documents were found damaged.
func (a *Agent) noteDamage(damage error) {
	why := fleet.Reason{}
	if damage != nil {
		why = fleet.Reason{
			Code: fleet.ReasonInternal, Message: "signed documents on this host's disk are damaged: " + damage.Error(),
			Hint: "check the disk; the coordinator's next answer replaces them",
		}
	}
	a.link.note(troubleDamage, why)
}

// take keeps what is admissible of an answer. Refusals are noted and no errors;
// what is returned is about this host, and may be gone at the next attempt.
func (a *Agent) take(b *bound, got sync.Desired) error {
	a.taking.Lock()
	defer a.taking.Unlock()
	if err := a.unfinishedReset(); err != nil {
		return err
	}
	var failed []error
	err := b.desired.AddRoots(got.Roots)
	a.link.note(troubleRoot, release.ReasonOf(err))
	if err != nil {
		a.config.Log.Warn("trust root not taken", "reason", string(release.ReasonOf(err).Code), "error", err)
		failed = append(failed, notRefusal(err))
	}
	if t := b.desired.Trust(); t != nil {
		failed = append(failed, a.recordRoot(t))
	}
	for _, o := range got.Offers {
		st := a.journal.State()
		h := b.host(o.Profile, st.Profile(o.Profile).Highest)
		if err := b.desired.Take(h, o, a.now()); err != nil {
			a.config.Log.Warn("generation not taken", "profile", string(o.Profile),
				"reason", string(release.ReasonOf(err).Code), "error", err)
			failed = append(failed, notRefusal(err))
		}
	}
	for _, p := range b.desired.Profiles() {
		a.worker(p)
	}
	failed = append(failed, a.takeFreshness(b, got.Freshness), a.loosenAll(b, got.Loosenings), a.keepFloor(b))
	return errors.Join(failed...)
}

// keepFloor lifts the floor to what is here. Where a document is about to be accepted,
// that is when it is recorded, with one flush for both: until then the document itself
// keeps it.
func (a *Agent) keepFloor(b *bound) error {
	st := a.journal.State()
	for _, p := range b.desired.Profiles() {
		highest := st.Profile(p).Highest
		d, _ := b.desired.Desired(b.host(p, highest), a.now())
		if d.Target != nil && !d.Revert && d.Target.Number.Compare(highest.Number) > 0 {
			a.raiseFloor(b.desired.Floor())
			return nil
		}
	}
	return a.recordFloor(b.desired.Floor())
}

// notRefusal is err where it is not about what a document says: that won't get
// better.
func notRefusal(err error) error {
	if r := (*release.Refusal)(nil); errors.As(err, &r) {
		return nil
	}
	return err
}

func (b *bound) host(p fleet.ProfileName, highest fleet.Ref) release.Host {
	return release.Host{Fleet: b.fleet, Machine: b.machine, Profile: p, Highest: highest, Latest: b.latest()}
}

func (a *Agent) recordRoot(t *release.Trust) error {
	st := a.journal.State()
	if st.Root.Digest == t.Digest() {
		return nil
	}
	poke(a.rootMoved)
	return a.journal.Append(journal.Record{ //nolint:wrapcheck // It says what failed.
		Kind: journal.KindRoot, Root: &journal.Root{Version: t.Root().Version, Digest: t.Digest()},
	})
}
