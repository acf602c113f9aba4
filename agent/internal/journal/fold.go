package journal

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Errors about records that don't fit the state. Nothing is written.
var (
	// ErrRecord: the record is incomplete, or doesn't follow from the state.
	ErrRecord = errors.New("record doesn't fit the journal's state")
	// ErrInFlight: another activation isn't finished.
	ErrInFlight = errors.New("an activation is in flight")
	// ErrRefused: the generation failed here or was refused.
	ErrRefused = errors.New("generation is refused on this host")
	// ErrNumber: the number is below the highest accepted one, or names another
	// document.
	ErrNumber = errors.New("generation number is not above the highest accepted one")
	// ErrUsed: the loosening document was used up before.
	ErrUsed = errors.New("loosening document was used before")
)

// apply folds one record into s. On an error s may be changed halfway and must
// be thrown away. It is pure but for s.
func apply(s *State, r *Record) error {
	if err := number(s, r); err != nil {
		return err
	}
	if r.Kind != KindPending {
		s.restoring = r.Kind == KindSnapshot
	}
	switch r.Kind {
	case KindAdopt, KindAccept, KindStaged, KindActivating, KindWithdrawn, KindActivated, KindVerified,
		KindCommitted, KindConfirmed, KindRollingBack, KindRolledBack, KindRollbackFailed,
		KindFailed, KindRefused, KindForgiven, KindRollBackAsked, KindHeld, KindUnheld, KindApplied, KindLoosened:
		return applyProfile(s, r)
	case KindTrustReset:
		return s.resetTrust(r)
	case KindPaused:
		s.Paused = &Pause{Reason: r.Reason.Message, Actor: r.Actor, Since: r.Time}
	case KindResumed:
		s.Paused = nil
	case KindMode:
		if _, err := fleet.ParseMode(string(r.Mode)); err != nil {
			return fmt.Errorf("%w: %w", ErrRecord, err)
		}
		s.Mode = r.Mode
	case KindFloor:
		if r.Floor.After(s.Floor) {
			s.Floor = r.Floor
		}
	case KindRoot:
		return s.setRoot(r.Root)
	case KindAck:
		if r.Acked > s.Transitions {
			return fmt.Errorf("%w: acknowledged %d of %d transitions", ErrRecord, r.Acked, s.Transitions)
		}
		s.acknowledge(r.Acked)
	case KindSnapshot:
		return s.restore(r)
	case KindPending:
		s.outbox = append(s.outbox, r.Pending...)
	default:
		return fmt.Errorf("%w: unknown kind %q: was it written by a newer agent?", ErrRecord, r.Kind)
	}
	return nil
}

// number checks the record's place in the sequence.
func number(s *State, r *Record) error {
	if r.Kind == KindSnapshot {
		if s.Seq != 0 || r.Snapshot == nil || r.Snapshot.Seq != r.Seq {
			return fmt.Errorf("%w: a snapshot that isn't the first record", ErrRecord)
		}
		return nil
	}
	if r.Kind == KindPending {
		if !s.restoring || r.Seq != s.Seq {
			return fmt.Errorf("%w: pending transitions that don't follow a snapshot", ErrRecord)
		}
		return nil
	}
	if r.Seq != s.Seq+1 {
		return fmt.Errorf("%w: record %d follows record %d", ErrRecord, r.Seq, s.Seq)
	}
	s.Seq = r.Seq
	_, is := r.Kind.transition()
	if is && r.Transition != s.Transitions+1 || !is && r.Transition != 0 {
		return fmt.Errorf("%w: transition %d after transition %d", ErrRecord, r.Transition, s.Transitions)
	}
	if is {
		s.Transitions = r.Transition
	}
	return nil
}

func (s *State) setRoot(root *Root) error {
	switch {
	case root != nil && s.Reset != nil && root.Digest == s.Reset.Digest:
		s.Reset = nil
	case root == nil || root.Version < s.Root.Version:
		return fmt.Errorf("%w: trust root older than version %d", ErrRecord, s.Root.Version)
	}
	s.Root = *root
	return nil
}

// resetTrust forgets which numbers the keys of another root signed. What runs,
// what is good and what was refused are facts of this host, and stay.
func (s *State) resetTrust(r *Record) error {
	if r.Root == nil || r.Root.Digest == "" {
		return fmt.Errorf("%w: no trust root to start from", ErrRecord)
	}
	for name, p := range s.Profiles {
		if p.Activation != nil {
			return fmt.Errorf("profile %s: %w", name, ErrInFlight)
		}
	}
	for _, p := range s.Profiles {
		p.Highest, p.RevertTo, p.Staged, p.Undone = fleet.Ref{}, nil, Built{}, Built{}
		// Whoever signed them is not who is trusted from now on.
		p.Floors, p.RevokedBefore = nil, time.Time{}
		if p.Phase == PhaseStaged || p.Phase == PhaseAccepted {
			p.Phase, p.Ref, p.Reason, p.Since = PhaseIdle, fleet.Ref{}, r.Reason, r.Time
		}
	}
	reset := *r.Root
	s.Reset = &reset
	r.Profile = fleet.System
	s.emit(r, fleet.Ref{}, r.Reason)
	return nil
}

func (s *State) restore(r *Record) error {
	for name, p := range r.Snapshot.Profiles {
		if p == nil {
			return fmt.Errorf("%w: snapshot without a state of profile %q", ErrRecord, name)
		}
	}
	c := r.Snapshot.clone()
	c.restoring = true
	*s = *c
	return nil
}

func (s *State) acknowledge(seq uint64) {
	s.Acked = max(s.Acked, seq)
	n := 0
	for n < len(s.outbox) && s.outbox[n].Seq <= s.Acked {
		n++
	}
	s.outbox = s.outbox[n:]
	if len(s.outbox) == 0 {
		s.outbox = nil
	}
}

// emit puts a transition into the outbox.
func (s *State) emit(r *Record, ref fleet.Ref, why fleet.Reason) {
	state, is := r.Kind.transition()
	if !is {
		return
	}
	s.outbox = append(s.outbox, fleet.Transition{
		Seq: r.Transition, Time: r.Time, Profile: r.Profile, State: state, Ref: ref, Reason: why,
	})
	if n := len(s.outbox) - MaxOutbox; n > 0 {
		s.outbox = s.outbox[n:]
		s.Dropped += uint64(n)
	}
}

// use marks a loosening document as used up. Expired ones are refused by the
// documents' check, and so may be forgotten once there are many.
func (s *State) use(doc fleet.Digest, expires, now time.Time) error {
	if s.Used(doc) {
		return fmt.Errorf("%w: %s: ask for a new one", ErrUsed, doc.Short())
	}
	const many = 64
	if len(s.Loosened) >= many {
		maps.DeleteFunc(s.Loosened, func(_ fleet.Digest, end time.Time) bool { return end.Before(now) })
	}
	if s.Loosened == nil {
		s.Loosened = map[fleet.Digest]time.Time{}
	}
	s.Loosened[doc] = expires
	return nil
}
