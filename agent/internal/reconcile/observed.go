package reconcile

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Desired is what should be, after every document was admitted or refused.
type Desired struct {
	// Target is what should run; nil when nothing is desired or all that is
	// was refused.
	Target *fleet.Ref
	// Revert says that the coordinator sends the host back to Target, a
	// member of the signed revert set: the only way to a lower number.
	Revert bool
	// Refusal is the named refusal of what the coordinator offers; its zero
	// value means that nothing was refused.
	Refusal fleet.Reason
}

// Policy is what the newest admissible generation's signed policy, the local
// configuration and the person at the machine allow.
type Policy struct {
	// Mode in force.
	Mode fleet.Mode
	// Paused is why activations are paused; empty when they are not.
	Paused string
	// Stale is why this host can't know whether what it is offered is the
	// newest; its code is empty when it can. StaleHolds keeps activations from
	// starting then.
	Stale      fleet.Reason
	StaleHolds bool
	// RebootAsks has a generation that needs a boot wait for a person.
	RebootAsks bool
	// CorrectDrift has what was activated last be activated once more where a person made
	// something else of it.
	CorrectDrift bool
	// OnInconclusive of the generation in flight.
	OnInconclusive fleet.OnInconclusive
}

// Phase is how far the journalled change of a profile has come.
type Phase string

// The phases of a change.
const (
	// PhaseActivating: the intent to activate is in the journal. Until a run
	// begins it is no more than that.
	PhaseActivating Phase = "activating"
	// PhaseVerifying: the activation ended well; nothing is proved yet.
	PhaseVerifying Phase = "verifying"
	// PhaseVerified: proved; what a driver does only then is still to be run.
	PhaseVerified Phase = "verified"
	// PhaseRollingBack: the intent to roll back is in the journal.
	PhaseRollingBack Phase = "rolling-back"
)

// Run is what the executor says of the action that a change has in flight.
type Run string

// What an action may be.
const (
	// RunNone: it was certainly never started.
	RunNone Run = "none"
	// RunRunning: its runner is alive.
	RunRunning Run = "running"
	// RunSucceeded: it ended as it should.
	RunSucceeded Run = "succeeded"
	// RunFailed: it ended badly.
	RunFailed Run = "failed"
	// RunHung: it was ended at its deadline.
	RunHung Run = "hung"
	// RunLost: its runner is gone and left no result, as after a power cut.
	RunLost Run = "lost"
)

// MaxRollBackAttempts bounds how often one rollback is run; after that the
// profile is failed and a person has to look: never a loop.
const MaxRollBackAttempts = 3

// Change is a change in flight, from the journal, with what is known of it now.
type Change struct {
	Phase Phase
	// To is what is, or was being, activated; From what the host returns to.
	From, To fleet.Ref
	// Correction says that To was on record as running before, and what a person made of
	// it is being undone; from the journal.
	Correction bool
	// Stale says that the host is not as it was when the way of a correction, of which
	// nothing ran yet, was made.
	Stale bool
	// Cause of a rollback, from the journal.
	Cause fleet.Reason
	// Attempts counts the runs of the rollback that ended badly.
	Attempts int
	// OnlineBefore says that the coordinator was reached shortly before the
	// activation began; from the journal.
	OnlineBefore bool

	// Fired says that the dead-man switch takes the host back, or did.
	Fired bool
	// Run is the executor's word, with what it says to people.
	Run       Run
	RunDetail string
	// Probes is the verdict of all probes together, of what is verified: To, or, once the
	// host went back, From; empty while there is none.
	Probes      fleet.Verdict
	ProbeDetail string
	// Reached says that the coordinator answered over a connection opened
	// after the activation, or after the rollback.
	Reached bool
	// ReachDetail is why it did not, for people; empty where there is no more to say.
	ReachDetail string
	// Witnessed says that, while the coordinator is out of reach, a witness answers that
	// did so before the activation: the host is well connected.
	Witnessed bool
	// Boots says that what is activated is booted, and MayReboot that the host may be
	// rebooted with nobody at it.
	Boots, MayReboot bool
	// Booted says that the host was booted since the activation began, and CameUp that it
	// came up with To. BootNow names for people what was booted instead; where both are
	// empty, that can't be told.
	Booted, CameUp bool
	BootNow        string
	// Rebooted says that the host was to be rebooted on this way back, and was booted
	// since; Returned that what it goes back to is what runs, as far as that can be told.
	// OldKernel says that only a boot brings all of that back.
	Rebooted, Returned, OldKernel bool
	// Orphaned is why no agent would be started on the host any more; empty where one
	// would, or need not.
	Orphaned string
	// Overdue says that the verify deadline, counted in time awake, is over.
	Overdue bool
}

// Wait is when a generation whose fetch or build failed is tried again.
type Wait struct {
	Until  time.Time
	Reason fleet.Reason
}

// Observed is what is.
type Observed struct {
	// Adopted says that what enrolment found running is on record.
	Adopted bool
	// Current is what runs; the zero value is generation 0.
	Current fleet.Ref
	// Unsure says that Current was never verified and no change is in flight: a
	// rollback from it failed.
	Unsure bool
	// Hindrance is what of the host keeps the target from being built and activated,
	// while that is so; the zero Reason for nothing.
	Hindrance fleet.Reason
	// Before is the profile of the host whose change is under way and is to be judged
	// first; empty for none.
	Before fleet.ProfileName
	// Drift is what a person made of Current on the host, for people; empty where it
	// runs, and boots, as it was activated.
	Drift string
	// DriftStands says that it has been so for a while: nobody is in the midst of it.
	// CorrectAt is when that may be undone at the earliest, and CorrectionFailed why the
	// newest attempt came to nothing; its code is empty where it did not.
	DriftStands      bool
	CorrectAt        time.Time
	CorrectionFailed fleet.Reason
	// LastGood is the newest verified generation before the one in question;
	// HasLastGood tells generation 0 from none.
	LastGood    fleet.Ref
	HasLastGood bool
	// Highest generation that this host ever accepted.
	Highest fleet.Ref
	// Refused are generations that failed here or were refused by a person.
	Refused map[fleet.Digest]fleet.Reason
	// Change in flight; nil when there is none.
	Change *Change
	// Unconfirmed says that Current is verified and not confirmed yet; Acked
	// that the coordinator has acknowledged it since.
	Unconfirmed, Acked bool
	// Broken says that a rollback failed for good: nothing is touched until a
	// person retries or a new number comes. BrokenWith is the highest number
	// at that time.
	Broken     bool
	BrokenWith fleet.Number
	// Doubt is why what the host went back to did not prove to work, and has not since;
	// its code is empty where nothing is in doubt.
	Doubt fleet.Reason
	// RollBackAsked is why a person at the machine wants to go back; its code is
	// empty when none does.
	RollBackAsked fleet.Reason
	// Fetched and Staged name the generation whose blobs are here, and the one
	// that is built and durable.
	Fetched, Staged fleet.Digest
	// NeedsBoot is what of the staged generation only a boot puts in place, for people,
	// where the host is to be booted for it; BootAllowed that a person said so.
	NeedsBoot   string
	BootAllowed bool
	// Console is what is owed to the person at the console before the staged generation is
	// activated; nil for nothing.
	Console *Console
	// Wait is the backoff of the target; nil when it may be tried.
	Wait *Wait
}
