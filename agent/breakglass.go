package agent

import (
	"errors"
	"fmt"
	"io"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/carry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Apply takes a signed generation from a file (pkg/carry) exactly as it would
// take a coordinator's answer: everything is verified, in the same order, and
// what follows is the same. It is on record before the host works towards it.
func (a *Agent) Apply(file io.Reader, actor string) (fleet.ProfileName, fleet.Ref, error) {
	p, ref, err := a.apply(file, actor)
	return p, ref, a.hinted(err, "make room on this host's disk, then apply the file again")
}

func (a *Agent) apply(file io.Reader, actor string) (fleet.ProfileName, fleet.Ref, error) {
	b, err := a.enrolled()
	if err != nil {
		return "", fleet.Ref{}, err
	}
	if err := a.mayAct(); err != nil {
		return "", fleet.Ref{}, err
	}
	r := carry.NewReader(file)
	docs, err := r.Documents()
	if err != nil {
		return "", fleet.Ref{}, ui.WithHint(fmt.Errorf("reading the file: %w", err), "make it with fleetctl carry")
	}
	doc := desired.Document{Generation: docs.Generation, Secrets: docs.Secrets}
	o, err := a.judge(b, docs.Roots, doc)
	if err != nil {
		return "", fleet.Ref{}, err
	}
	// Nothing is cleared away until what is here is on record as needed.
	a.building.RLock()
	defer a.building.RUnlock()
	if err := a.takeBlobs(r, o); err != nil {
		return "", fleet.Ref{}, err
	}
	return a.applied(b, doc, o, actor)
}

// judge walks to the newest root of a file, whose keys may have signed the
// document, and admits that.
func (a *Agent) judge(b *bound, roots [][]byte, doc desired.Document) (*desired.Opened, error) {
	a.taking.Lock()
	defer a.taking.Unlock()
	if err := b.desired.AddRoots(roots); err != nil {
		return nil, refusedFile(err)
	}
	// None counts yet where the file has older roots only than this host had.
	if t := b.desired.Trust(); t != nil {
		if err := a.recordRoot(t); err != nil {
			return nil, err
		}
	}
	o, err := b.desired.Judge(doc, func(p fleet.ProfileName) release.Host {
		st := a.journal.State()
		return b.host(p, st.Profile(p).Highest)
	}, a.now())
	if err != nil {
		return nil, refusedFile(err)
	}
	return o, nil
}

// takeBlobs keeps the file's blobs that the generation names, and makes sure
// that afterwards all of them are here.
func (a *Agent) takeBlobs(r *carry.Reader, o *desired.Opened) error {
	named := map[fleet.BlobRef]bool{}
	for _, ref := range o.Blobs() {
		named[ref] = true
	}
	if err := a.room(o.Blobs()); err != nil {
		return err
	}
	for {
		ref, content, err := r.Blob()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && !named[ref] {
			err = fmt.Errorf("%w: blob %s is none that the generation names", carry.ErrFile, ref.Digest.Short())
		}
		if err == nil {
			err = a.blobs.Put(ref, content)
		}
		if err != nil {
			return ui.WithHint(fmt.Errorf("reading the file: %w", err), "make it anew with fleetctl carry")
		}
	}
	for _, ref := range o.Blobs() {
		if !a.blobs.Has(ref) {
			return control.NotPossible("make the file anew with fleetctl carry", "the file lacks blob %s, which the generation names", ref.Digest.Short())
		}
	}
	return nil
}

// applied records who handed the generation over, and has the host work
// towards it.
func (a *Agent) applied(b *bound, doc desired.Document, o *desired.Opened, actor string) (fleet.ProfileName, fleet.Ref, error) {
	a.taking.Lock()
	defer a.taking.Unlock()
	if err := a.unfinishedReset(); err != nil {
		return "", fleet.Ref{}, err
	}
	p, ref := o.Generation.Doc.Profile, o.Ref()
	w := a.worker(p)
	if err := w.append(journal.Record{
		Kind: journal.KindApplied, Ref: ref, Actor: actor,
		Reason: fleet.Reason{Code: fleet.ReasonAppliedByHand, Message: fmt.Sprintf("generation %s was handed over on this host by %s", ref.Number, actor)},
	}); err != nil {
		return "", fleet.Ref{}, err
	}
	st := a.journal.State()
	err := b.desired.Take(b.host(p, st.Profile(p).Highest), desired.Offer{Profile: p, Newest: doc}, a.now())
	if err != nil {
		return "", fleet.Ref{}, refusedFile(err)
	}
	if err := a.recordFloor(b.desired.Floor()); err != nil {
		return "", fleet.Ref{}, err
	}
	if !o.Generation.Doc.Policy.Console.IsZero() {
		if err := w.beginNow(ref.Digest); err != nil {
			return "", fleet.Ref{}, err
		}
	}
	a.wakeAll()
	a.link.wantReport()
	return p, ref, nil
}

// unfinishedReset is an error while another trust root is on record than is in use: it
// could not be written down, and numbers count anew already. a.taking is held.
func (a *Agent) unfinishedReset() error {
	if st := a.journal.State(); st.Reset != nil {
		return control.NotPossible("reset the trust root once more, or start the agent again", "a reset of this host's trust root has not come to its end")
	}
	return nil
}

// refusedFile explains a refusal to who brought the file.
func refusedFile(err error) error {
	r := (*release.Refusal)(nil)
	if !errors.As(err, &r) {
		return err
	}
	return control.NotPossible(r.Hint(), "%s (%s)", err.Error(), r.Code)
}

// ResetTrust has the host start from another trust root, the one with digest
// pin: what only keys of the old one signed is refused from then on, and numbers
// are counted anew. What runs goes on running.
func (a *Agent) ResetTrust(envelope []byte, pin fleet.Digest, actor string) (version uint64, err error) {
	version, err = a.resetTrust(envelope, pin, actor)
	return version, a.hinted(err, "make room on this host's disk, then reset its trust again")
}

func (a *Agent) resetTrust(envelope []byte, pin fleet.Digest, actor string) (version uint64, err error) {
	b, err := a.enrolled()
	if err != nil {
		return 0, err
	}
	t, err := release.OpenRoot(envelope, pin)
	if err == nil && t.Root().Fleet != b.fleet {
		err = fmt.Errorf("trust root of %s: %w", t.Root().Fleet, release.ErrWrongFleet)
	}
	if err == nil {
		err = t.CheckFresh(a.now())
	}
	if err != nil {
		return 0, refusedFile(err)
	}
	a.taking.Lock()
	defer a.taking.Unlock()
	if now := b.desired.Trust(); now != nil && now.Digest() == t.Digest() {
		return 0, control.NotPossible("", "this host trusts that root already")
	}
	if err := b.desired.PrepareReset(t); err != nil {
		return 0, err
	}
	root := &journal.Root{Version: t.Root().Version, Digest: t.Digest()}
	// What only the old root's documents kept is kept from here on.
	err = a.journal.Append(append([]journal.Record{{
		Kind: journal.KindTrustReset, Root: root, Actor: actor,
		Reason: fleet.Reason{
			Code: fleet.ReasonTrustReset, Message: fmt.Sprintf("trust root reset to version %d (%s) by %s", root.Version, pin.Short(), actor),
			Hint: "publish with the keys of that root; if nobody of the fleet did this, the host is not to be trusted",
		},
	}}, a.floorAt(b.desired.Floor())...)...)
	if errors.Is(err, journal.ErrInFlight) {
		return 0, control.NotPossible("wait until that has ended: fleet-agent status tells", "something is being activated")
	}
	if err != nil {
		return 0, err //nolint:wrapcheck // It says what failed.
	}
	if err := a.identity.Repin(pin); err != nil {
		return 0, err //nolint:wrapcheck // It says what failed.
	}
	b.desired.Reset(t)
	if err := a.recordRoot(t); err != nil {
		return 0, err
	}
	a.config.Log.Warn("trust root reset", "version", root.Version, "digest", string(pin), "actor", actor)
	a.wakeAll()
	a.link.wantReport()
	return root.Version, nil
}

// finishReset carries out a reset whose intent is on record and which a crash
// cut short; the root itself was durable before the intent was.
func (a *Agent) finishReset() error {
	st := a.journal.State()
	if st.Reset == nil {
		return nil
	}
	if err := a.identity.Repin(st.Reset.Digest); err != nil {
		return fmt.Errorf("finishing the reset of the trust root: %w", err)
	}
	return a.journal.Append(journal.Record{Kind: journal.KindRoot, Root: st.Reset}) //nolint:wrapcheck // It says what failed.
}
