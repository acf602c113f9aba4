package journal

import (
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Bounds on what a state keeps.
const (
	// MaxOutbox bounds the transitions that wait for the coordinator; the
	// oldest are dropped beyond, which leaves a gap in their numbers.
	MaxOutbox = 10_000
	// MaxHistory bounds the verified generations that a profile remembers.
	MaxHistory = 16
	// MaxRefused bounds the refusals that a profile remembers. One that could
	// still be desired (the highest, or a member of its revert set) is never
	// forgotten for lack of room.
	MaxRefused = 64
	// MaxInterrupted is how often a generation may be interrupted (power loss,
	// a killed runner) before it is refused like one that failed.
	MaxInterrupted = 3
)

// Phase says where the newest attempt at a profile stands.
type Phase string

// The phases of a profile.
const (
	// PhaseIdle: nothing was attempted yet.
	PhaseIdle Phase = "idle"
	// PhaseAccepted: a generation was accepted; it isn't ready yet.
	PhaseAccepted Phase = "accepted"
	// PhaseStaged: a generation lies ready.
	PhaseStaged Phase = "staged"
	// PhaseActivating: an activation was about to start, or runs.
	PhaseActivating Phase = "activating"
	// PhaseActivated: the activation ended well; verification is due.
	PhaseActivated Phase = "activated"
	// PhaseVerified: verified; to be acknowledged by the coordinator.
	PhaseVerified Phase = "verified"
	// PhaseConfirmed: acknowledged.
	PhaseConfirmed Phase = "confirmed"
	// PhaseRollingBack: a rollback was about to start, or runs.
	PhaseRollingBack Phase = "rolling-back"
	// PhaseRolledBack: the host is back where the activation began.
	PhaseRolledBack Phase = "rolled-back"
	// PhaseStuck: the rollback failed, what runs is uncertain; only a new
	// activation leads out.
	PhaseStuck Phase = "stuck"
	// PhaseFailed: the attempt failed before anything was changed.
	PhaseFailed Phase = "failed"
)

// Built is a generation that lies ready on this host.
type Built struct {
	Ref fleet.Ref `json:"ref"`
	// Path is what the driver built; empty where nothing runs.
	Path string `json:"path,omitempty"`
	// Driver names the driver that built Path; empty where nothing runs, and in
	// records of agents that had only the bundle driver.
	Driver string `json:"driver,omitempty"`
	// Secrets is the directory of its decrypted secrets; empty for none.
	Secrets string `json:"secrets,omitempty"`
	// Source is a digest of the source: equal ones need no new activation.
	Source fleet.Digest `json:"source,omitempty"`
}

// Is says whether b is the generation that r names, whatever the release.
func (b Built) Is(r fleet.Ref) bool { return sameRef(b.Ref, r) }

func sameRef(a, b fleet.Ref) bool { return a.Number == b.Number && a.Digest == b.Digest }

// Activation is the intent to make To the running generation, with all that is
// needed to finish or undo it without asking anybody.
type Activation struct {
	// ID names the activation to the executor; unique.
	ID   string `json:"id"`
	From Built  `json:"from"`
	To   Built  `json:"to"`
	// RollbackTo is where Rollback leads; nil means From.
	RollbackTo *Built        `json:"rollback_to,omitempty"`
	Activate   driver.Action `json:"activate"`
	Commit     driver.Action `json:"commit"`
	Rollback   driver.Action `json:"rollback"`
	// Forgiven says that From was allowed again meanwhile: a revert from it does
	// not refuse it.
	Forgiven bool `json:"forgiven,omitempty"`
	// OnlineBefore says that the coordinator was reached right before.
	OnlineBefore bool   `json:"online_before"`
	BootID       string `json:"boot_id,omitempty"`
	// Agent is how the agent's service stood before; empty where there is none, or nobody
	// knew.
	Agent AgentStanding `json:"agent,omitempty"`
	// Witnesses answered this host right before, and Outside, where the coordinator runs
	// on it, reached that.
	Witnesses []fleet.MachineName `json:"witnesses,omitempty"`
	Outside   []fleet.MachineName `json:"outside,omitempty"`
	// Boots says that what is activated is booted: Activate ends before the boot, and
	// what is booted is verified.
	Boots bool `json:"boots,omitempty"`
	// Units are those that were failed right before, of a host that is booted; nil where
	// that can't be told, and so nothing of the boot.
	Units *TroubledUnits `json:"units,omitempty"`
	// MayReboot says that the host may be rebooted with nobody at it, to come back from
	// this activation.
	MayReboot bool `json:"may_reboot,omitempty"`
	// Undoes is what was made by hand of To, which is on record as running already; nil
	// but for a correction. Rollback leads back to it, and changes nothing on record: so
	// it is not what Back returns, by which an older agent goes.
	Undoes *ByHand `json:"undoes,omitempty"`
	// Deadline is when, by wall time, verification must have been decided.
	Deadline time.Time `json:"deadline,omitzero"`
}

// TroubledUnits are units by name.
type TroubledUnits struct {
	Names []string `json:"names,omitempty"`
}

// AgentStanding is how the agent's service stood before an activation.
type AgentStanding string

// How it may have stood.
const (
	// AgentStarts with the system; AgentByHand would be started, but not by that;
	// AgentGone would not be.
	AgentStarts AgentStanding = "starts"
	AgentByHand AgentStanding = "by-hand"
	AgentGone   AgentStanding = "gone"
)

// Back is where a rollback of the activation leads.
func (a *Activation) Back() Built {
	if a.RollbackTo != nil {
		return *a.RollbackTo
	}
	return a.From
}

// LeadsTo is what runs after a rollback of the activation: where Back is on record, or
// what a person had made of that.
func (a *Activation) LeadsTo() Built {
	if a.Undoes != nil {
		return a.Undoes.Made
	}
	return a.Back()
}

// Refusal remembers why a generation isn't tried (again).
type Refusal struct {
	Ref    fleet.Ref    `json:"ref"`
	Reason fleet.Reason `json:"reason"`
	Time   time.Time    `json:"time"`
}

// Asked is a person's wish to leave the generation of that digest.
type Asked struct {
	Digest fleet.Digest `json:"digest"`
	Reason fleet.Reason `json:"reason"`
}

// ByHand is what a person made of a generation.
type ByHand struct {
	// Made is what ran.
	Made Built `json:"made"`
	// Runs and Boots are the paths that ran and booted instead; empty where the generation
	// did.
	Runs  string `json:"runs,omitempty"`
	Boots string `json:"boots,omitempty"`
}

// Correction is the newest attempt to undo what was made of a generation by hand.
type Correction struct {
	Digest fleet.Digest `json:"digest"`
	Time   time.Time    `json:"time"`
	// CutShort counts the attempts that were interrupted, since the last that was not.
	CutShort int `json:"cut_short,omitempty"`
	// Failed is why nothing more is tried; its code is empty where something may be.
	Failed fleet.Reason `json:"failed,omitzero"`
}

// MaxCutShort is how often a correction may be interrupted until it counts as failed: less
// than MaxInterrupted, so that no generation is refused for it, by older agents neither.
const MaxCutShort = MaxInterrupted - 1

// Good is a generation that was verified on this host.
type Good struct {
	Built
	Confirmed bool      `json:"confirmed,omitempty"`
	Time      time.Time `json:"time"`
}

// ProfileState is what the journal says of one profile.
type ProfileState struct {
	Phase Phase `json:"phase"`
	// Ref is the generation that Phase is about.
	Ref fleet.Ref `json:"ref"`
	// Reason of the newest change of phase, and its time.
	Reason fleet.Reason `json:"reason"`
	Since  time.Time    `json:"since,omitzero"`
	// Adopted says that Current is known: what ran at enrolment was recorded.
	Adopted bool `json:"adopted,omitempty"`
	// Current is what runs. It moves with activated and rolled-back, so that in
	// between, and in PhaseStuck, it is only what was known last.
	Current Built `json:"current"`
	// Degraded names, for people, the parts of what runs that failed and that the host can
	// be without; empty for none, and where an older agent activated it or went back to it.
	Degraded string `json:"degraded,omitempty"`
	// LastGood is the newest verified generation other than Current and never
	// a refused one; zero (no path) where there is none.
	LastGood Built `json:"last_good"`
	// Confirmed is the generation that was confirmed last.
	Confirmed fleet.Ref `json:"confirmed"`
	// Highest is the highest generation that was ever accepted; RevertTo is its
	// revert set.
	Highest  fleet.Ref   `json:"highest"`
	RevertTo []fleet.Ref `json:"revert_to,omitempty"`
	// Staged lies ready; zero where nothing does.
	Staged Built `json:"staged"`
	// Undone is the refused generation that was rolled back last, or that an
	// operator sent the host back from, still built:
	// forgiven, it is tried again without anybody to ask for it. Zero where there
	// is none, and from a higher one's acceptance on.
	Undone Built `json:"undone,omitzero"`
	// Floors are the lowest versions of secrets that the host may have, RevokedBefore the
	// time before which nothing is gone back to by anybody's word: the highest, and the
	// latest, that any manifest ever had that was staged here.
	Floors        map[fleet.SecretName]uint64 `json:"floors,omitempty"`
	RevokedBefore time.Time                   `json:"revoked_before,omitzero"`
	// Activation is in flight: from activating until withdrawn, committed,
	// rolled-back or rollback-failed. At most one.
	Activation *Activation `json:"activation,omitempty"`
	// Superseded is the unverified activation that Activation took the place of,
	// for as long as that may be withdrawn; nil where there was none.
	Superseded *Activation `json:"superseded,omitempty"`
	// Refused generations by digest.
	Refused map[fleet.Digest]Refusal `json:"refused,omitempty"`
	// Interrupted counts blameless rollbacks by digest.
	Interrupted map[fleet.Digest]int `json:"interrupted,omitempty"`
	// Asked is a person's wish to leave what runs; nil where there is none.
	Asked *Asked `json:"asked,omitempty"`
	// Corrected is the newest correction; nil where there was none, or a person wants
	// another one.
	Corrected *Correction `json:"corrected,omitempty"`
	// Held says why an activation that could start doesn't; nil when not held.
	Held *fleet.Reason `json:"held,omitempty"`
	// History holds the verified generations that aren't refused, the newest
	// last, Current included where it is verified.
	History []Good `json:"history,omitempty"`
}

// CurrentVerified says whether what runs was verified here.
func (p *ProfileState) CurrentVerified() bool {
	return slices.ContainsFunc(p.History, func(g Good) bool { return g.Is(p.Current.Ref) })
}

// IsRefused says whether a generation failed here or was refused.
func (p *ProfileState) IsRefused(d fleet.Digest) (Refusal, bool) {
	r, ok := p.Refused[d]
	return r, ok
}

// Confirmable lists the generations confirmed here that aren't refused, the
// newest first: what an operator's rollback chooses from.
func (p *ProfileState) Confirmable() []Built {
	var out []Built
	for _, g := range slices.Backward(p.History) {
		if g.Confirmed {
			out = append(out, g.Built)
		}
	}
	return out
}

// Root is the trust root that is stored beside the journal.
type Root struct {
	Version uint64       `json:"version"`
	Digest  fleet.Digest `json:"digest,omitempty"`
}

// Pause keeps activations from starting.
type Pause struct {
	Reason string    `json:"reason"`
	Actor  string    `json:"actor,omitempty"`
	Since  time.Time `json:"since"`
}

// State is the fold of all records.
type State struct {
	// Seq is that of the newest record.
	Seq uint64 `json:"seq"`
	// Mode that applied last; observe at first.
	Mode   fleet.Mode `json:"mode"`
	Paused *Pause     `json:"paused,omitempty"`
	// Floor is the newest signed time seen.
	Floor time.Time `json:"floor,omitzero"`
	Root  Root      `json:"root"`
	// Reset is the trust root that the host is about to start from; nil when it
	// has.
	Reset *Root `json:"reset,omitempty"`
	// Transitions counts those ever made: it is the newest one's Seq.
	Transitions uint64 `json:"transitions"`
	// Acked is the watermark: transitions up to it are durable elsewhere.
	Acked uint64 `json:"acked"`
	// Dropped counts transitions that were dropped unacknowledged.
	Dropped  uint64                              `json:"dropped,omitempty"`
	Profiles map[fleet.ProfileName]*ProfileState `json:"profiles,omitempty"`
	// StaleUntil is when, by profile, activations may no longer start without a
	// fresh statement; a profile that isn't there needs one.
	StaleUntil map[fleet.ProfileName]time.Time `json:"stale_until,omitempty"`
	// Loosened holds the loosening documents that were used up, with their
	// expiry: each works once.
	Loosened map[fleet.Digest]time.Time `json:"loosened,omitempty"`

	outbox []fleet.Transition
	// restoring: a snapshot was read, records of its outbox may follow.
	restoring bool
}

// Profile returns the state of a profile; the zero state, idle, for one that
// the journal doesn't know. What is returned isn't linked to s.
func (s *State) Profile(name fleet.ProfileName) ProfileState {
	if p := s.Profiles[name]; p != nil {
		return *p.clone()
	}
	return ProfileState{Phase: PhaseIdle}
}

// Used says whether a loosening document was used up here.
func (s *State) Used(loosening fleet.Digest) bool {
	_, ok := s.Loosened[loosening]
	return ok
}

// Outbox is the number of transitions that aren't acknowledged.
func (s *State) Outbox() int { return len(s.outbox) }

// Pending returns the oldest transitions that aren't acknowledged, by rising
// Seq, at most limit (limit ≤ 0: all).
func (s *State) Pending(limit int) []fleet.Transition {
	n := len(s.outbox)
	if limit > 0 {
		n = min(n, limit)
	}
	return slices.Clone(s.outbox[:n])
}

func newState() *State {
	return &State{Mode: fleet.ModeObserve}
}
