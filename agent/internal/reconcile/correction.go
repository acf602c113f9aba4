package reconcile

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// correction decides about a target that is on record as running. correct says that it is
// to be activated once more, and rest.Reason why; else rest is the plan.
func correction(now time.Time, d Desired, o Observed, p Policy) (rest Plan, correct bool) {
	rest = settled(d, o, p)
	switch {
	case rest.Reason.Code != fleet.ReasonOverridden || !p.CorrectDrift:
		return rest, false
	case o.CorrectionFailed.Code != "":
		rest.Reason.Message += "; correcting that failed, and is not tried again: " + o.CorrectionFailed.Message
		rest.Reason.Hint = "see fleet-agent logs; then run fleet-agent retry, or publish a new generation"
		return rest, false
	case p.Mode != fleet.ModeManage || p.Paused != "" || p.StaleHolds && p.Stale.Code != "":
		return rest, false // Nothing may start now.
	case !o.DriftStands:
		rest.Reason.Hint = "the policy has that corrected, once it was so for a minute"
		return rest, false
	case now.Before(o.CorrectAt):
		// Who is quicker than that is at work on the host, or another tool is.
		rest.Step, rest.Until = StepHold, o.CorrectAt
		rest.Reason.Message += "; it was corrected not long ago, and is again at " + o.CorrectAt.UTC().Format("15:04 MST")
		return rest, false
	}
	rest.Reason.Code, rest.Reason.Hint = fleet.ReasonCorrecting, ""
	return rest, true
}
