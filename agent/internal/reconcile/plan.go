package reconcile

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Step is what the agent does next for a profile.
type Step string

// The steps.
const (
	// StepNothing: all is as it should be, or must stay as it is.
	StepNothing Step = "nothing"
	// StepHold: something is to be done, but not now; Plan.Until says when to
	// look again, zero until something changes.
	StepHold Step = "hold"
	// StepAdopt records what runs as generation 0.
	StepAdopt Step = "adopt"
	// StepAccept records the target as the highest generation accepted.
	StepAccept Step = "accept"
	// StepFetch brings the target's blobs here.
	StepFetch Step = "fetch"
	// StepBuild builds the target and makes it durable.
	StepBuild Step = "build"
	// StepTell tells the person at the console that the target is about to be activated,
	// and records that they were told.
	StepTell Step = "tell"
	// StepActivate admits the target once more and records the intent; StepStart
	// follows.
	StepActivate Step = "activate"
	// StepStart starts the recorded action, which certainly never ran. An
	// activation is started only where it would be decided upon now as well.
	StepStart Step = "start"
	// StepWithdraw takes back the intent to activate the target, which certainly
	// never ran and may not run now: nothing is to be undone, and the target is
	// not to blame.
	StepWithdraw Step = "withdraw"
	// StepAwait waits for the runner of the action in flight.
	StepAwait Step = "await"
	// StepReboot reboots the host: into what was activated, or, from a rollback, into what
	// boots.
	StepReboot Step = "reboot"
	// StepActivated records that the activation ended well.
	StepActivated Step = "activated"
	// StepVerify probes, and reaches for the coordinator: what was activated, what the
	// host went back to, or what runs and is in doubt.
	StepVerify Step = "verify"
	// StepVerified records that the target is verified.
	StepVerified Step = "mark-verified"
	// StepCommit runs what a driver does once the target is verified.
	StepCommit Step = "commit"
	// StepConfirm records that the coordinator has acknowledged.
	StepConfirm Step = "confirm"
	// StepRollBack records the intent to roll back and starts it.
	StepRollBack Step = "roll-back"
	// StepRolledBack records that the rollback ended well.
	StepRolledBack Step = "rolled-back"
	// StepFail records that even the rollback failed.
	StepFail Step = "fail"
)

// Plan is one next step. Two equal plans mean that work on the first may go on.
type Plan struct {
	Step Step
	// Target is what the step is about: what is to run when it succeeded.
	Target fleet.Ref
	// Until is when to decide again at the latest; zero: when something changes.
	Until time.Time
	// Reason is why, for people.
	Reason fleet.Reason
}

// Blameless says whether a rollback for that reason leaves the generation free
// of blame: it was interrupted, and may be tried again a few times.
func Blameless(r fleet.Reason) bool {
	return r.Code == fleet.ReasonActivationUnknown || r.Code == fleet.ReasonCorrectionFailed
}

// Same says whether work on p may go on where q is wanted: the reasons may
// have changed, the work is the same.
func (p Plan) Same(q Plan) bool {
	return p.Step == q.Step && p.Target == q.Target
}
