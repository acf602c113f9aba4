package journal

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Kind is the kind of a record.
type Kind string

// The kinds of records. Fields besides Profile that each needs are in
// brackets; Reason may be given to all. Those marked T are transitions: they go
// to the coordinator.
const (
	// KindAdopt records what runs, of the agent's own making or not, as the
	// current generation [Built]. Not while an activation is in flight. T
	KindAdopt Kind = "adopt"
	// KindAccept makes a generation the highest [Ref, RevertTo]. A lower number,
	// or the same one with another digest, is refused. T
	KindAccept Kind = "accept"
	// KindStaged: built, secrets prepared [Built, Floors, RevokedBefore]. T
	KindStaged Kind = "staged"
	// KindActivating is the intent to activate [Activation]. T
	KindActivating Kind = "activating"
	// KindWithdrawn takes KindActivating back: the activation never began, and
	// must not now [Reason]. It lies ready again, without blame; where it had
	// superseded an activation, that one is in flight again. T
	KindWithdrawn Kind = "withdrawn"
	// KindActivated: the activation ended well [Reason, ReasonDegraded where a part
	// failed that the host can be without]. T
	KindActivated Kind = "activated"
	// KindVerified: probes good and the coordinator reached. T
	KindVerified Kind = "verified"
	// KindCommitted: the commit action of a verified activation was carried out
	// (or there was none to carry out). It ends the activation.
	KindCommitted Kind = "committed"
	// KindConfirmed: the coordinator acknowledged the verified generation. T
	KindConfirmed Kind = "confirmed"
	// KindRollingBack is the intent to roll back [Reason]. The generation is
	// remembered as refused, unless Blameless. T
	KindRollingBack Kind = "rolling-back"
	// KindRolledBack: back at Activation.Back() [Degraded where a part of that failed
	// that the host can be without]. Ends the activation. T
	KindRolledBack Kind = "rolled-back"
	// KindRollbackFailed: not back [Reason]. Ends the activation. T
	KindRollbackFailed Kind = "rollback-failed"
	// KindFailed: a generation failed before its activation and is remembered
	// as refused [Ref, Reason]. T
	KindFailed Kind = "failed"
	// KindRefused: an operator refused a generation [Ref, Reason]. T
	KindRefused Kind = "refused"
	// KindForgiven forgets a refusal [Digest]. Where a signed document allows
	// it [Loosening, Expires], that document is used up: a second use is
	// ErrUsed. T
	KindForgiven Kind = "forgiven"
	// KindLoosened: a signed document lets activations start although what is
	// new isn't known [Loosening, Expires]; it is used up. T
	KindLoosened Kind = "loosened"
	// KindRollBackAsked: a person at the machine wants to leave what runs [Digest of
	// what runs, Reason]. It counts until that rollback begins, or something else
	// runs.
	KindRollBackAsked Kind = "rollback-asked"
	// KindHeld: an activation that could start waits [Reason, Ref]. T
	KindHeld Kind = "held"
	// KindUnheld ends a hold; whatever changes the phase does too.
	KindUnheld Kind = "unheld"
	// KindPaused and KindResumed concern the whole machine [Reason.Message,
	// Actor].
	KindPaused  Kind = "paused"
	KindResumed Kind = "resumed"
	// KindMode: another mode applies [Mode].
	KindMode Kind = "mode"
	// KindFloor raises the newest signed time seen [Floor]; a lower one changes
	// nothing.
	KindFloor Kind = "floor"
	// KindRoot: a trust root was stored [Root]; a lower version is refused.
	KindRoot Kind = "root"
	// KindApplied: somebody at the machine handed a signed generation over [Ref,
	// Reason, Actor]. What follows of it has records of its own. T
	KindApplied Kind = "applied"
	// KindTrustReset is the intent to start from another trust root [Root,
	// Reason, Actor]: numbers are counted anew. KindRoot with that root ends it.
	// Not while an activation is in flight. T, of the profile system.
	KindTrustReset Kind = "trust-reset"
	// KindAck: transitions up to Acked are durable at the coordinator [Acked].
	KindAck Kind = "ack"
	// KindSnapshot stands first in a compacted journal; KindPending after it
	// carries transitions that aren't acknowledged. Append refuses both.
	KindSnapshot Kind = "snapshot"
	KindPending  Kind = "pending"
)

// Record is one entry of the journal. Which fields count is said at each Kind.
type Record struct {
	// Seq counts the records from 1; Append sets it, and Time.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`
	// Transition is the transition's number, for the kinds that are one; Append
	// sets it.
	Transition uint64            `json:"transition,omitempty"`
	Profile    fleet.ProfileName `json:"profile,omitempty"`
	Ref        fleet.Ref         `json:"ref,omitzero"`
	RevertTo   []fleet.Ref       `json:"revert_to,omitempty"`
	Built      *Built            `json:"built,omitempty"`
	Activation *Activation       `json:"activation,omitempty"`
	// Reason; Append cuts its texts to a bounded length.
	Reason fleet.Reason `json:"reason,omitzero"`
	// Degraded names, for people, the parts of a way back that failed and that the host can
	// be without; Append cuts it as it does reasons. An older agent does not know it, and
	// folds all else the same.
	Degraded string `json:"degraded,omitempty"`
	// Blameless: the generation isn't to blame for its rollback (it was
	// interrupted) and may be tried again, MaxInterrupted times.
	Blameless bool         `json:"blameless,omitempty"`
	Digest    fleet.Digest `json:"digest,omitempty"`
	Loosening fleet.Digest `json:"loosening,omitempty"`
	// Expires is when the loosening document expires.
	Expires time.Time  `json:"expires,omitzero"`
	Actor   string     `json:"actor,omitempty"`
	Mode    fleet.Mode `json:"mode,omitempty"`
	Floor   time.Time  `json:"floor,omitzero"`
	Root    *Root      `json:"root,omitempty"`
	Acked   uint64     `json:"acked,omitempty"`

	// Floors and RevokedBefore are those of the secrets manifest of what was staged. An
	// older agent does not know them, and never stages such a manifest.
	Floors        map[fleet.SecretName]uint64 `json:"floors,omitempty"`
	RevokedBefore time.Time                   `json:"revoked_before,omitzero"`

	Snapshot *State             `json:"snapshot,omitempty"`
	Pending  []fleet.Transition `json:"pending,omitempty"`
}

// transition is the state that a record of the kind puts a profile in, for the
// kinds that are transitions.
func (k Kind) transition() (fleet.State, bool) {
	switch k {
	case KindAdopt, KindForgiven, KindTrustReset, KindLoosened:
		return fleet.StateIdle, true
	case KindAccept, KindApplied:
		return fleet.StateFetching, true
	case KindStaged, KindWithdrawn:
		return fleet.StateStaged, true
	case KindActivating:
		return fleet.StateActivating, true
	case KindActivated:
		return fleet.StateVerifying, true
	case KindVerified:
		return fleet.StateVerified, true
	case KindConfirmed:
		return fleet.StateConfirmed, true
	case KindRollingBack:
		return fleet.StateRollingBack, true
	case KindRolledBack:
		return fleet.StateRolledBack, true
	case KindRollbackFailed, KindFailed, KindRefused:
		return fleet.StateFailed, true
	case KindHeld:
		return fleet.StateHeld, true
	case KindCommitted, KindRollBackAsked, KindUnheld, KindPaused, KindResumed, KindMode, KindFloor, KindRoot, KindAck,
		KindSnapshot, KindPending:
	}
	return "", false
}
