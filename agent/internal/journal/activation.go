package journal

import (
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// activating begins an activation. One that was activated and is still not
// verified may be superseded: else a host whose verification stays
// inconclusive could never take the fix.
func (p *ProfileState) activating(r *Record) (fleet.Ref, error) {
	a := r.Activation
	switch {
	case a == nil || a.ID == "":
		return fleet.Ref{}, p.wrong(r, "no activation")
	case !p.Adopted:
		return fleet.Ref{}, p.wrong(r, "what runs was never adopted, so there is no way back")
	case p.Activation != nil && p.Phase != PhaseActivated:
		return fleet.Ref{}, fmt.Errorf("%w: %s of %s", ErrInFlight, p.Activation.ID, p.Activation.To.Ref.Number)
	case !a.From.Is(p.Current.Ref) || a.From.Path != p.Current.Path:
		return fleet.Ref{}, p.wrong(r, fmt.Sprintf("it starts from %q, but %q runs", a.From.Path, p.Current.Path))
	case a.To.Ref.Number.Compare(p.Highest.Number) > 0:
		return fleet.Ref{}, fmt.Errorf("%w: %s was never accepted", ErrNumber, a.To.Ref.Number)
	}
	if err := p.checkRefused(a.To.Ref); err != nil {
		return fleet.Ref{}, err
	}
	p.Activation, p.Superseded = a.clone(), p.Activation
	if a.Undoes != nil {
		next := &Correction{Digest: a.To.Ref.Digest, Time: r.Time}
		if was := p.Corrected; was != nil && was.Digest == next.Digest {
			next.CutShort = was.CutShort
		}
		p.Corrected = next
	}
	p.drop(a.To.Ref)
	if p.Staged.Is(a.To.Ref) {
		p.Staged = Built{}
	}
	p.enter(r, PhaseActivating, a.To.Ref)
	return a.To.Ref, nil
}

// withdrawn undoes activating, of which nothing but the record exists.
func (p *ProfileState) withdrawn(r *Record) (fleet.Ref, error) {
	if p.Phase != PhaseActivating || p.Activation == nil {
		return fleet.Ref{}, p.wrong(r, "no activation that could be taken back")
	}
	to := p.Activation.To
	if p.Activation.Undoes != nil && p.Corrected != nil {
		p.Corrected.Time = time.Time{} // Nothing was done.
	}
	p.Activation, p.Superseded = p.Superseded, nil
	p.undo(to)
	_, refused := p.Refused[to.Ref.Digest]
	switch {
	case p.Activation != nil:
		p.enter(r, PhaseActivated, p.Activation.To.Ref)
	case refused:
		p.enter(r, PhaseFailed, to.Ref)
	default:
		p.enter(r, PhaseStaged, to.Ref)
	}
	return to.Ref, nil
}

func (p *ProfileState) activated(r *Record) (fleet.Ref, error) {
	if p.Phase != PhaseActivating || p.Activation == nil {
		return fleet.Ref{}, p.wrong(r, "no activation runs")
	}
	p.Current, p.Superseded, p.Degraded = p.Activation.To, nil, ""
	if r.Reason.Code == fleet.ReasonDegraded {
		p.Degraded = r.Reason.Message
	}
	p.enter(r, PhaseActivated, p.Current.Ref)
	return p.Current.Ref, nil
}

func (p *ProfileState) verified(r *Record) (fleet.Ref, error) {
	if p.Phase != PhaseActivated || p.Activation == nil {
		return fleet.Ref{}, p.wrong(r, "nothing was activated")
	}
	if err := p.checkRefused(p.Current.Ref); err != nil {
		return fleet.Ref{}, err
	}
	p.remember(Good{Built: p.Current, Time: r.Time})
	if p.Activation.Undoes == nil {
		p.Corrected = nil
	}
	p.enter(r, PhaseVerified, p.Current.Ref)
	return p.Current.Ref, nil
}

func (p *ProfileState) rollingBack(r *Record) (fleet.Ref, error) {
	if p.Activation == nil || p.Phase == PhaseRollingBack {
		return fleet.Ref{}, p.wrong(r, "no activation to roll back")
	}
	ref := p.Activation.To.Ref
	blame := !r.Blameless
	if p.Activation.Undoes != nil {
		p.Corrected.failed(r.Reason)
	}
	if r.Blameless && ref.Digest != "" {
		if p.Interrupted == nil || len(p.Interrupted) >= MaxRefused {
			p.Interrupted = map[fleet.Digest]int{}
		}
		p.Interrupted[ref.Digest]++
		blame = p.Interrupted[ref.Digest] >= MaxInterrupted
	}
	if blame {
		p.refuse(r, ref)
	}
	p.Superseded = nil
	p.enter(r, PhaseRollingBack, ref)
	return ref, nil
}

// failed notes that a correction was gone back from. What was only cut short is tried
// again, when another one may be.
func (c *Correction) failed(why fleet.Reason) {
	switch {
	case c == nil:
		return // By an agent that does not know corrections.
	case why.Code == fleet.ReasonActivationUnknown:
		if c.CutShort++; c.CutShort < MaxCutShort {
			return
		}
	}
	c.Failed = why
}

// rolledBack ends a rollback, well or badly. The reason stays the one it began
// with where there is no other.
func (p *ProfileState) rolledBack(r *Record) (fleet.Ref, error) {
	if p.Phase != PhaseRollingBack || p.Activation == nil {
		return fleet.Ref{}, p.wrong(r, "no rollback runs")
	}
	to, why := p.Activation.To, p.Reason
	phase := PhaseStuck
	if r.Kind == KindRolledBack {
		phase = PhaseRolledBack
		p.Current, p.Degraded = p.Activation.Back(), r.Degraded
	}
	p.Activation = nil
	p.undo(to)
	p.enter(r, phase, to.Ref)
	if p.Reason == (fleet.Reason{}) {
		p.Reason = why
	}
	return to.Ref, nil
}

// undo keeps what another attempt needs: at once where it was only
// interrupted or withdrawn, after a retry where it is refused.
func (p *ProfileState) undo(to Built) {
	if _, refused := p.Refused[to.Ref.Digest]; refused {
		p.Undone = to
	} else if p.Staged == (Built{}) && to.Ref.Digest != "" {
		p.Staged = to
	}
}

// drop forgets that a generation was undone: it is on its way again.
func (p *ProfileState) drop(ref fleet.Ref) {
	if p.Undone.Is(ref) {
		p.Undone = Built{}
	}
}

func (p *ProfileState) checkRefused(ref fleet.Ref) error {
	if was, ok := p.Refused[ref.Digest]; ok {
		return fmt.Errorf("%w: %s: %s", ErrRefused, ref.Number, was.Reason.Code)
	}
	return nil
}

// remember puts a verified generation at the end of the history.
func (p *ProfileState) remember(g Good) {
	p.History = slices.DeleteFunc(p.History, func(old Good) bool {
		if !old.Is(g.Ref) {
			return false
		}
		g.Confirmed = g.Confirmed || old.Confirmed
		return true
	})
	p.History = append(p.History, g)
	if n := len(p.History) - MaxHistory; n > 0 {
		p.History = slices.Delete(p.History, 0, n)
	}
}

// refuse remembers a generation as refused. One without a digest, which is
// generation 0, can't be remembered: it is only no longer a place to return to.
func (p *ProfileState) refuse(r *Record, ref fleet.Ref) {
	p.History = slices.DeleteFunc(p.History, func(g Good) bool { return g.Is(ref) })
	if ref.Digest == "" {
		return
	}
	if p.Refused == nil {
		p.Refused = map[fleet.Digest]Refusal{}
	}
	if p.Staged.Is(ref) {
		p.Staged = Built{}
	}
	p.Refused[ref.Digest] = Refusal{Ref: ref, Reason: r.Reason, Time: r.Time}
	for len(p.Refused) > MaxRefused && p.forget(ref) {
		continue
	}
}

// forget drops the refusal with the lowest number that can't be desired any
// more, and says whether there was one.
func (p *ProfileState) forget(except fleet.Ref) bool {
	var lowest *Refusal
	for _, c := range p.Refused {
		inPlay := sameRef(c.Ref, p.Highest) || sameRef(c.Ref, except) || p.Current.Is(c.Ref) ||
			slices.ContainsFunc(p.RevertTo, func(r fleet.Ref) bool { return sameRef(r, c.Ref) })
		if inPlay {
			continue
		}
		if lowest == nil || c.Ref.Number.Compare(lowest.Ref.Number) < 0 ||
			c.Ref.Number == lowest.Ref.Number && c.Ref.Digest < lowest.Ref.Digest {
			lowest = &c
		}
	}
	if lowest == nil {
		return false
	}
	delete(p.Refused, lowest.Ref.Digest)
	return true
}

func (p *ProfileState) lastGood() Built {
	for _, g := range slices.Backward(p.History) {
		if _, refused := p.Refused[g.Ref.Digest]; !refused && !g.Is(p.Current.Ref) {
			return g.Built
		}
	}
	return Built{}
}
