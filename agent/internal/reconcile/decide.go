package reconcile

import (
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Decide returns the one next step for a profile, and every reason that bears
// on where it is, the plan's own first. It is total and deterministic; calling
// it again with the same facts says the same.
func Decide(now time.Time, d Desired, o Observed, p Policy) (Plan, []fleet.Reason) {
	plan := decide(now, d, o, p)
	var reasons []fleet.Reason
	if plan.Reason.Code != "" {
		reasons = append(reasons, plan.Reason)
	}
	if d.Refusal.Code != "" && d.Refusal != plan.Reason {
		reasons = append(reasons, d.Refusal)
	}
	if p.Paused != "" && plan.Reason.Code != fleet.ReasonPaused {
		reasons = append(reasons, paused(p))
	}
	if p.Stale.Code != "" && p.Stale.Code != plan.Reason.Code {
		reasons = append(reasons, p.Stale)
	}
	return plan, reasons
}

func decide(now time.Time, d Desired, o Observed, p Policy) Plan {
	if o.Change != nil {
		if plan, done := inFlight(now, d, o, p); done {
			return plan
		}
	}
	switch {
	case !o.Adopted:
		return Plan{Step: StepAdopt}
	case o.Unconfirmed && o.Acked && o.Change == nil:
		return Plan{Step: StepConfirm, Target: o.Current}
	case o.RollBackAsked.Code != "" && o.Hindrance.Code != "" && o.Change == nil:
		return Plan{Step: StepHold, Target: o.Current, Until: now.Add(lookAgain), Reason: o.Hindrance}
	case o.RollBackAsked.Code != "" && o.HasLastGood && o.Change == nil:
		// A person asked to go back: whatever is desired, paused or not.
		return Plan{Step: StepRollBack, Target: o.LastGood, Reason: o.RollBackAsked}
	case o.Broken && (d.Target == nil || d.Target.Number.Compare(o.BrokenWith) <= 0):
		return Plan{Step: StepNothing, Target: o.Current, Reason: fleet.Reason{
			Code:    fleet.ReasonRollbackFailed,
			Message: "the rollback failed too; nothing more is tried",
			Hint:    "look at fleet-agent logs, repair the host, then run fleet-agent retry or publish a new generation",
		}}
	}
	plan := towards(now, d, o, p)
	if plan.Step == StepNothing && o.Doubt.Code != "" && o.Change == nil {
		return Plan{Step: StepVerify, Target: o.Current, Reason: o.Doubt}
	}
	return plan
}

// towards decides how to get from a settled profile to the target.
func towards(now time.Time, d Desired, o Observed, p Policy) Plan {
	if d.Target == nil {
		if d.Refusal.Code != "" {
			return Plan{Step: StepNothing, Target: o.Current, Reason: d.Refusal}
		}
		return Plan{Step: StepNothing, Target: o.Current, Reason: fleet.Reason{
			Code: fleet.ReasonNothingDesired, Message: "no generation has been published for this profile",
			Hint: "publish one with fleetctl publish",
		}}
	}
	target := *d.Target
	if why, ok := refused(o, target); ok {
		if d.Refusal.Code != "" {
			return Plan{Step: StepNothing, Target: o.Current, Reason: d.Refusal} // It is the news.
		}
		return Plan{Step: StepNothing, Target: o.Current, Reason: fleet.Reason{
			Code:    why.Code,
			Message: fmt.Sprintf("generation %s is not tried again: %s", target.Number, why.Message),
			Hint:    "publish a new generation, or retry this one with fleetctl retry, or here with fleet-agent retry",
		}}
	}
	if !d.Revert && target.Number.Compare(o.Highest.Number) < 0 {
		return Plan{Step: StepNothing, Target: o.Current, Reason: fleet.Reason{
			Code:    fleet.ReasonRefused,
			Message: fmt.Sprintf("generation %s is below %s, which this host accepted", target.Number, o.Highest.Number),
			Hint:    "publish a higher generation",
		}}
	}
	if target.Number.Compare(o.Highest.Number) > 0 {
		return Plan{Step: StepAccept, Target: target, Reason: why(d, target)}
	}
	reason := why(d, target)
	if target.Digest == o.Current.Digest && !o.Unsure {
		rest, correct := correction(now, d, o, p)
		if !correct {
			return rest
		}
		reason = rest.Reason
	}
	if p.Mode != fleet.ModeManage {
		return Plan{Step: StepHold, Target: target, Reason: fleet.Reason{
			Code:    fleet.ReasonObserve,
			Message: "this host observes: it reports and activates nothing",
			Hint:    "set policy mode manage, and drop a local override if there is one",
		}}
	}
	if o.Hindrance.Code != "" {
		// The generation is not to blame, and is gone on with when the host has changed.
		return Plan{Step: StepHold, Target: target, Reason: o.Hindrance}
	}
	if o.Wait != nil && now.Before(o.Wait.Until) {
		return Plan{Step: StepHold, Target: target, Until: o.Wait.Until, Reason: o.Wait.Reason}
	}
	switch {
	case o.Staged == target.Digest:
		if p.Paused != "" {
			return Plan{Step: StepHold, Target: target, Reason: paused(p)}
		}
		if p.StaleHolds && p.Stale.Code != "" {
			return Plan{Step: StepHold, Target: target, Reason: p.Stale}
		}
		if o.NeedsBoot != "" && p.RebootAsks && !o.BootAllowed {
			return Plan{Step: StepHold, Target: target, Reason: fleet.Reason{
				Code:    fleet.ReasonRebootAsk,
				Message: fmt.Sprintf("generation %s is built, and waits for a person to have this host rebooted: %s", target.Number, o.NeedsBoot),
				Hint:    "run fleet-agent reboot on the host when that suits",
			}}
		}
		if o.Before != "" {
			return Plan{Step: StepHold, Target: target, Until: now.Add(lookAgain), Reason: fleet.Reason{
				Code:    fleet.ReasonAnotherProfile,
				Message: fmt.Sprintf("generation %s is ready, and waits until it is known whether the change of profile %s works", target.Number, o.Before),
			}}
		}
		// A way back that the coordinator sends the host on is a rollback.
		if plan, waits := console(now, target, o.Console); waits && !d.Revert {
			return plan
		}
		return Plan{Step: StepActivate, Target: target, Reason: reason}
	case o.Fetched == target.Digest:
		return Plan{Step: StepBuild, Target: target, Reason: reason}
	}
	return Plan{Step: StepFetch, Target: target, Reason: reason}
}

// settled says why nothing is to be done while the target runs.
func settled(d Desired, o Observed, p Policy) Plan {
	switch {
	case d.Refusal.Code != "":
		return Plan{Step: StepNothing, Target: o.Current, Reason: d.Refusal}
	case o.Unconfirmed:
		return Plan{Step: StepNothing, Target: o.Current, Reason: fleet.Reason{
			Code: fleet.ReasonAwaitingAck, Message: "verified; the coordinator has not acknowledged it yet",
			Hint: "the host reports again by itself; if it stays so, look at the coordinator",
		}}
	case o.Drift != "":
		return Plan{Step: StepNothing, Target: o.Current, Reason: overridden(o)}
	case p.Stale.Code != "":
		return Plan{Step: StepNothing, Target: o.Current, Reason: p.Stale}
	}
	return Plan{Step: StepNothing, Target: o.Current, Reason: fleet.Reason{
		Code: fleet.ReasonUpToDate, Message: "the desired generation runs",
	}}
}

// overridden says that the host is not as it was left.
func overridden(o Observed) fleet.Reason {
	return fleet.Reason{
		Code:    fleet.ReasonOverridden,
		Message: fmt.Sprintf("generation %s was activated last, and since, on the host, %s", o.Current.Number, o.Drift),
		Hint:    "publish what is to run: the host goes there from what runs; or switch it back by hand",
	}
}

func refused(o Observed, r fleet.Ref) (fleet.Reason, bool) {
	if r.Digest == "" {
		return fleet.Reason{}, false
	}
	why, ok := o.Refused[r.Digest]
	return why, ok
}

func paused(p Policy) fleet.Reason {
	return fleet.Reason{
		Code: fleet.ReasonPaused, Message: "activations are paused on this host: " + p.Paused,
		Hint: "lift the pause with fleet-agent resume",
	}
}

func why(d Desired, target fleet.Ref) fleet.Reason {
	if d.Revert {
		return fleet.Reason{
			Code:    fleet.ReasonRevert,
			Message: fmt.Sprintf("the coordinator sends this host back to generation %s", target.Number),
		}
	}
	return fleet.Reason{
		Code:    fleet.ReasonNewGeneration,
		Message: fmt.Sprintf("generation %s of release %s is desired", target.Number, target.Release),
	}
}
