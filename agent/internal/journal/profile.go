package journal

import (
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// applyProfile folds a record about one profile.
func applyProfile(s *State, r *Record) error {
	if _, err := fleet.ParseProfileName(string(r.Profile)); err != nil {
		return fmt.Errorf("%w: %w", ErrRecord, err)
	}
	p := s.Profiles[r.Profile]
	if p == nil {
		if len(s.Profiles) >= fleet.MaxProfiles {
			return fmt.Errorf("%w: more than %d profiles", ErrRecord, fleet.MaxProfiles)
		}
		p = &ProfileState{Phase: PhaseIdle}
		if s.Profiles == nil {
			s.Profiles = map[fleet.ProfileName]*ProfileState{}
		}
		s.Profiles[r.Profile] = p
	}
	if r.Kind == KindForgiven && r.Loosening != "" || r.Kind == KindLoosened {
		if err := s.use(r.Loosening, r.Expires, r.Time); err != nil {
			return err
		}
	}
	if r.Kind == KindLoosened {
		if s.StaleUntil == nil {
			s.StaleUntil = map[fleet.ProfileName]time.Time{}
		}
		s.StaleUntil[r.Profile] = r.Expires
	}
	ref, err := p.apply(r)
	if err != nil {
		return fmt.Errorf("profile %s: %w", r.Profile, err)
	}
	p.LastGood = p.lastGood()
	if p.Asked != nil && (r.Kind == KindRollingBack || p.Asked.Digest != p.Current.Ref.Digest) {
		p.Asked = nil // It is on its way, or about what does not run any more.
	}
	why := r.Reason
	if why == (fleet.Reason{}) && (r.Kind == KindRolledBack || r.Kind == KindRollbackFailed) {
		why = p.Reason
	}
	s.emit(r, ref, why)
	return nil
}

// apply changes the profile and says which generation the record is about.
func (p *ProfileState) apply(r *Record) (fleet.Ref, error) {
	switch r.Kind {
	case KindAdopt:
		return p.adopt(r)
	case KindAccept:
		return p.accept(r)
	case KindStaged:
		return p.stage(r)
	case KindApplied, KindLoosened:
		return r.Ref, nil
	case KindActivating:
		return p.activating(r)
	case KindWithdrawn:
		return p.withdrawn(r)
	case KindActivated:
		return p.activated(r)
	case KindVerified:
		return p.verified(r)
	case KindCommitted:
		if p.Activation == nil || p.Phase != PhaseVerified && p.Phase != PhaseConfirmed {
			return fleet.Ref{}, p.wrong(r, "no verified activation")
		}
		// Not before: what is verified, and can't be made what boots, is interrupted too.
		p.Activation, p.Interrupted = nil, nil
		if p.Corrected != nil {
			p.Corrected.CutShort = 0
		}
		return p.Current.Ref, nil
	case KindConfirmed:
		return p.confirmed(r)
	case KindRollingBack:
		return p.rollingBack(r)
	case KindRolledBack, KindRollbackFailed:
		return p.rolledBack(r)
	case KindFailed, KindRefused:
		return p.fail(r)
	case KindForgiven:
		return p.forgive(r)
	case KindRollBackAsked:
		if r.Digest == "" || r.Digest != p.Current.Ref.Digest {
			return fleet.Ref{}, p.wrong(r, "another generation runs")
		}
		p.Asked = &Asked{Digest: r.Digest, Reason: r.Reason}
		return p.Current.Ref, nil
	case KindHeld:
		if r.Reason.Code == "" {
			return fleet.Ref{}, p.wrong(r, "no reason")
		}
		p.Held = clonePtr(&r.Reason)
		if r.Ref.IsZero() {
			return p.Ref, nil
		}
		return r.Ref, nil
	case KindUnheld:
		p.Held = nil
		return p.Ref, nil
	case KindPaused, KindResumed, KindMode, KindFloor, KindRoot, KindTrustReset, KindAck, KindSnapshot, KindPending:
	}
	return fleet.Ref{}, p.wrong(r, "not about a profile")
}

func (p *ProfileState) wrong(r *Record, why string) error {
	return fmt.Errorf("%w: %s while %s: %s", ErrRecord, r.Kind, p.Phase, why)
}

func (p *ProfileState) enter(r *Record, phase Phase, ref fleet.Ref) {
	p.Phase, p.Ref, p.Since, p.Held = phase, ref, r.Time, nil
	p.Reason = r.Reason
}

func (p *ProfileState) adopt(r *Record) (fleet.Ref, error) {
	switch {
	case r.Built == nil:
		return fleet.Ref{}, p.wrong(r, "no path")
	case p.Activation != nil:
		return fleet.Ref{}, fmt.Errorf("%w: %s can't be adopted", ErrInFlight, r.Built.Path)
	}
	if err := p.checkRefused(r.Built.Ref); err != nil {
		return fleet.Ref{}, err
	}
	p.Current, p.Degraded = *r.Built, ""
	if !p.Adopted {
		// What ran before the agent came is what it can always return to.
		p.Adopted = true
		p.remember(Good{Built: *r.Built, Time: r.Time})
	}
	if p.Phase != PhaseAccepted && p.Phase != PhaseStaged {
		p.enter(r, PhaseIdle, r.Built.Ref)
	}
	return r.Built.Ref, nil
}

func (p *ProfileState) accept(r *Record) (fleet.Ref, error) {
	if r.Ref.Digest == "" || r.Ref.Number.IsZero() {
		return fleet.Ref{}, p.wrong(r, "no generation named")
	}
	switch c := r.Ref.Number.Compare(p.Highest.Number); {
	case c < 0:
		return fleet.Ref{}, fmt.Errorf("%w: %s, accepted was %s", ErrNumber, r.Ref.Number, p.Highest.Number)
	case c == 0 && r.Ref.Digest != p.Highest.Digest:
		return fleet.Ref{}, fmt.Errorf("%w: %s names %s, accepted was %s",
			ErrNumber, r.Ref.Number, r.Ref.Digest.Short(), p.Highest.Digest.Short())
	}
	p.Highest, p.RevertTo = r.Ref, slices.Clone(r.RevertTo)
	if !p.Undone.Is(r.Ref) {
		p.Undone = Built{}
	}
	if p.Activation == nil {
		if !p.Staged.Is(r.Ref) {
			p.Staged = Built{}
		}
		p.enter(r, PhaseAccepted, r.Ref)
	}
	return r.Ref, nil
}

func (p *ProfileState) stage(r *Record) (fleet.Ref, error) {
	if r.Built == nil || r.Built.Ref.Digest == "" {
		return fleet.Ref{}, p.wrong(r, "no generation named")
	}
	ref := r.Built.Ref
	if ref.Number.Compare(p.Highest.Number) > 0 {
		return fleet.Ref{}, fmt.Errorf("%w: %s was never accepted", ErrNumber, ref.Number)
	}
	if err := p.checkRefused(ref); err != nil {
		return fleet.Ref{}, err
	}
	p.Staged = *r.Built
	p.raiseFloors(r)
	p.drop(ref)
	if p.Activation == nil {
		p.enter(r, PhaseStaged, ref)
	}
	return ref, nil
}

// raiseFloors keeps the highest floor of each secret: manifests carry those of before, so
// that what is beyond the bound is of nobody who publishes honestly.
func (p *ProfileState) raiseFloors(r *Record) {
	for name, floor := range r.Floors {
		if p.Floors == nil {
			p.Floors = map[fleet.SecretName]uint64{}
		}
		if _, known := p.Floors[name]; known || len(p.Floors) < fleet.MaxFloors {
			p.Floors[name] = max(p.Floors[name], floor)
		}
	}
	if r.RevokedBefore.After(p.RevokedBefore) {
		p.RevokedBefore = r.RevokedBefore
	}
}

func (p *ProfileState) confirmed(r *Record) (fleet.Ref, error) {
	switch {
	case !p.CurrentVerified() || p.Activation != nil && p.Phase != PhaseVerified:
		return fleet.Ref{}, p.wrong(r, "what runs isn't verified")
	case !r.Ref.IsZero() && !p.Current.Is(r.Ref):
		return fleet.Ref{}, p.wrong(r, "another generation runs")
	}
	p.Confirmed = p.Current.Ref
	for i := range p.History {
		if p.History[i].Is(p.Current.Ref) {
			p.History[i].Confirmed = true
		}
	}
	if p.Phase == PhaseVerified {
		p.enter(r, PhaseConfirmed, p.Current.Ref)
	}
	return p.Current.Ref, nil
}

func (p *ProfileState) fail(r *Record) (fleet.Ref, error) {
	switch {
	case r.Ref.Digest == "":
		return fleet.Ref{}, p.wrong(r, "no generation named")
	case r.Kind == KindFailed && p.Activation != nil && p.Activation.To.Is(r.Ref):
		return fleet.Ref{}, fmt.Errorf("%w: it has to be rolled back", ErrInFlight)
	}
	p.refuse(r, r.Ref)
	if r.Kind == KindRefused && p.Activation != nil && p.Activation.From.Is(r.Ref) {
		p.Undone = p.Activation.From // An operator sent the host back from it.
	}
	if p.Activation == nil && (r.Kind == KindFailed || p.Ref.Digest == r.Ref.Digest &&
		(p.Phase == PhaseAccepted || p.Phase == PhaseStaged)) {
		p.enter(r, PhaseFailed, r.Ref)
	}
	return r.Ref, nil
}

func (p *ProfileState) forgive(r *Record) (fleet.Ref, error) {
	if r.Digest == "" {
		return fleet.Ref{}, p.wrong(r, "no generation named")
	}
	ref := fleet.Ref{Digest: r.Digest}
	if was, ok := p.Refused[r.Digest]; ok {
		ref = was.Ref
	}
	delete(p.Refused, r.Digest)
	delete(p.Interrupted, r.Digest)
	if p.Corrected != nil && p.Corrected.Digest == r.Digest {
		p.Corrected = nil
	}
	if p.Activation != nil && p.Activation.From.Ref.Digest == r.Digest {
		p.Activation.Forgiven = true
	}
	if p.Undone.Ref.Digest == r.Digest && p.Staged == (Built{}) {
		p.Staged, p.Undone = p.Undone, Built{}
	}
	if p.Phase == PhaseFailed && p.Ref.Digest == r.Digest {
		p.enter(r, PhaseAccepted, p.Ref)
	}
	return ref, nil
}
