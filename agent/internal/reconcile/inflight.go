package reconcile

import (
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// inFlight decides about a change that is under way. done is false where the
// change only waits, and something newer may replace it.
func inFlight(now time.Time, d Desired, o Observed, p Policy) (plan Plan, done bool) {
	c := o.Change
	if o.Hindrance.Code == fleet.ReasonHomeUnusable &&
		(c.Phase == PhaseVerifying && !c.Fired && c.Probes == "" || c.Phase == PhaseRollingBack && c.Run != RunRunning && c.Run != RunSucceeded) {
		// A home that is not there, as before its user logs in, can neither be probed nor
		// gone back in.
		return Plan{Step: StepHold, Target: c.To, Until: now.Add(lookAgain), Reason: o.Hindrance}, true
	}
	switch c.Phase {
	case PhaseActivating:
		// What the activation came to says more than that nobody was there to see it.
		if c.Fired && c.Boots && c.Booted && c.Run == RunSucceeded {
			return rollBack(c, fleet.ReasonNotVerified, "the dead-man switch went back after the boot: no agent said in time that it works"), true
		}
		if c.Fired && c.Run != RunFailed && c.Run != RunHung {
			return rollBack(c, fleet.ReasonActivationUnknown, "the dead-man switch went back: no agent saw the activation to its end in time"), true
		}
		if c.Run == RunNone {
			return unstarted(now, d, o, p), true
		}
		if c.Boots && c.Booted && !c.CameUp && c.BootNow == "" && c.Run == RunSucceeded {
			return Plan{Step: StepHold, Target: c.To, Until: now.Add(lookAgain), Reason: fleet.Reason{
				Code: fleet.ReasonVerifying, Message: "what the host came up with can't be told yet",
			}}, true
		}
		return activating(c), true
	case PhaseVerifying:
		if c.Fired {
			return rollBack(c, fleet.ReasonNotVerified, "the dead-man switch went back: no agent said in time that it works"), true
		}
		if c.Booted && c.BootNow != "" {
			return rollBack(c, fleet.ReasonActivationUnknown, "the host was booted before anybody had verified it, and came up with "+c.BootNow), true
		}
		return verifying(d, o, p)
	case PhaseVerified:
		return Plan{Step: StepCommit, Target: c.To}, true
	case PhaseRollingBack:
		return rollingBack(d, o, p), true
	}
	// A phase that no version of this program writes: the only safe way is back.
	return rollBack(c, fleet.ReasonInternal, fmt.Sprintf("the journal names an unknown phase %q", c.Phase)), true
}

// unstarted decides about an activation that is only an intent. However old
// that is, after a crash or where nothing could be started, it counts no more
// than on the day of its start: the same is asked as of one that lies ready.
// What is newer may replace it, for it ends nothing midway.
func unstarted(now time.Time, d Desired, o Observed, p Policy) Plan {
	c := o.Change
	o.Change, o.Staged, o.Wait = nil, c.To.Digest, nil
	// An intent to activate what runs was made because that is unsure.
	o.Unsure = c.To.Digest == o.Current.Digest
	again := towards(now, d, o, p)
	if c.Correction && (c.Stale || c.Booted || !p.CorrectDrift) {
		return Plan{Step: StepWithdraw, Target: c.To, Reason: fleet.Reason{
			Code: fleet.ReasonOverridden, Message: "what was made of it by hand is another thing by now, or the policy leaves it",
		}}
	}
	if c.Boots && c.Booted {
		// What leads there was for another boot, and so was a person's word.
		return Plan{Step: StepWithdraw, Target: c.To, Reason: fleet.Reason{
			Code: fleet.ReasonActivationUnknown, Message: "the host was booted before it began",
		}}
	}
	if again.Step == StepActivate && again.Target.Digest == c.To.Digest {
		return Plan{Step: StepStart, Target: c.To}
	}
	return Plan{Step: StepWithdraw, Target: c.To, Reason: again.Reason}
}

// activating decides about an activation that began.
func activating(c *Change) Plan {
	switch c.Run {
	case RunRunning:
		return Plan{Step: StepAwait, Target: c.To}
	case RunSucceeded:
		switch {
		case c.Boots && !c.Booted:
			return Plan{Step: StepReboot, Target: c.To, Reason: rebooting("it is booted once, and what boots by default stays until it is verified")}
		case c.Boots && !c.CameUp:
			return rollBack(c, fleet.ReasonBootFailed, "it was to be booted, and the host came up with "+c.BootNow)
		}
		return Plan{Step: StepActivated, Target: c.To}
	case RunFailed:
		return rollBack(c, fleet.ReasonActivationFailed, c.RunDetail)
	case RunHung:
		return rollBack(c, fleet.ReasonActivationHung, c.RunDetail)
	case RunNone, RunLost:
	}
	if c.Correction && c.Booted && c.CameUp {
		return Plan{Step: StepActivated, Target: c.To} // What boots was what it leads to.
	}
	// Lost, or a word that is none: how far it came is unknown, so back.
	return rollBack(c, fleet.ReasonActivationUnknown, "the activation was interrupted and left no result")
}

// verifying weighs what is known of a generation that was activated. A fail
// decides at once; what is inconclusive only at the deadline.
func verifying(d Desired, o Observed, p Policy) (Plan, bool) {
	c := o.Change
	switch {
	case o.RollBackAsked.Code != "" && c.Correction:
		return rollBack(c, o.RollBackAsked.Code, o.RollBackAsked.Message), true
	case o.RollBackAsked.Code != "":
		return Plan{Step: StepRollBack, Target: c.From, Reason: o.RollBackAsked}, true
	case c.Orphaned != "":
		return rollBack(c, fleet.ReasonAgentMissing, c.Orphaned+": nobody could take this host anywhere else (policy agent: leaves permits that)"), true
	case c.Probes == fleet.VerdictFail:
		return rollBack(c, fleet.ReasonProbeFailed, c.ProbeDetail), true
	case c.Probes == fleet.VerdictPass && c.Reached:
		return Plan{Step: StepVerified, Target: c.To}, true
	case !c.Overdue:
		return Plan{Step: StepVerify, Target: c.To}, true
	case c.Probes == fleet.VerdictPass && c.Witnessed:
		return Plan{Step: StepVerified, Target: c.To}, true
	}
	code, message := fleet.ReasonUnreachable, unreached(c)
	if c.Probes != fleet.VerdictPass {
		code, message = fleet.ReasonInconclusive, "probes are inconclusive"
		if c.ProbeDetail != "" {
			message = c.ProbeDetail
		}
	}
	if c.Boots && !c.OnlineBefore && c.Probes == fleet.VerdictPass {
		return Plan{Step: StepVerified, Target: c.To}, true // It was alone before, too.
	}
	// What was booted once is gone with the next boot: it can't be kept.
	if c.Boots || c.OnlineBefore && p.OnInconclusive != fleet.InconclusiveKeep {
		return rollBack(c, code, message), true
	}
	// Kept: verification goes on, and a newer generation need not wait for it.
	if supersedes(d, o) && p.Mode == fleet.ModeManage {
		return Plan{}, false
	}
	return Plan{Step: StepVerify, Target: c.To, Reason: fleet.Reason{
		Code: code, Message: message + "; kept, and verified later",
		Hint: "the host goes on trying; fleet-agent rollback returns to the last good generation",
	}}, true
}

// supersedes says whether something newer than the change is desired and may run.
func supersedes(d Desired, o Observed) bool {
	if d.Target == nil || d.Target.Digest == o.Change.To.Digest {
		return false
	}
	_, no := refused(o, *d.Target)
	return !no && (d.Revert || d.Target.Number.Compare(o.Change.To.Number) > 0)
}

func rollingBack(d Desired, o Observed, p Policy) Plan {
	c := o.Change
	switch c.Run {
	case RunNone:
		return Plan{Step: StepStart, Target: c.From, Reason: c.Cause}
	case RunRunning:
		return Plan{Step: StepAwait, Target: c.From, Reason: c.Cause}
	case RunSucceeded:
		if c.Rebooted && !c.Returned {
			return failed(c, "the host was rebooted on its way back, and came up with something else")
		}
		if c.OldKernel && c.MayReboot && !c.Rebooted {
			return Plan{Step: StepReboot, Target: c.From, Reason: rebooting("to come back to all of what boots: " + c.Cause.Message)}
		}
		return back(d, o, p)
	case RunFailed, RunHung, RunLost:
	}
	// Attempts counts the runs of this rollback, the one that just ended too.
	if c.Attempts < MaxRollBackAttempts {
		return Plan{Step: StepRollBack, Target: c.From, Reason: c.Cause}
	}
	if c.Rebooted && c.Returned {
		return back(d, o, p)
	}
	if c.MayReboot && !c.Rebooted {
		return Plan{Step: StepReboot, Target: c.From, Reason: rebooting(fmt.Sprintf("rolling back failed %d times, and what boots is what it goes back to: %s", c.Attempts, c.RunDetail))}
	}
	return failed(c, fmt.Sprintf("rolling back failed %d times: %s", c.Attempts, c.RunDetail))
}

// back weighs what is known of a host that went back: a way back is proved like a way
// there. What does not work then is booted once, where that may be and leads back; after
// that nothing is left to try, and the host says so.
func back(d Desired, o Observed, p Policy) Plan {
	c := o.Change
	lost := c.OnlineBefore && !c.Reached && (!c.Witnessed || !c.Overdue)
	switch {
	case c.Probes == fleet.VerdictPass && !lost:
		return Plan{Step: StepRolledBack, Target: c.From, Reason: c.Cause}
	case c.Probes != fleet.VerdictFail && !c.Overdue && supersedes(d, o) && p.Mode == fleet.ModeManage && p.Paused == "":
		return unproved(c, "something newer is to run, and nobody waited for that")
	case c.Probes != fleet.VerdictFail && !c.Overdue:
		return Plan{Step: StepVerify, Target: c.From}
	}
	why := unreached(c)
	if c.Probes != fleet.VerdictPass {
		why = c.ProbeDetail
	}
	if c.MayReboot && !c.Rebooted && (c.Probes == fleet.VerdictFail || c.Probes == fleet.VerdictPass) {
		return Plan{Step: StepReboot, Target: c.From, Reason: rebooting("it went back, and what it went back to does not work: " + why)}
	}
	return unproved(c, why)
}

// unproved ends a way back that nobody knows to have helped.
func unproved(c *Change, why string) Plan {
	return Plan{Step: StepRolledBack, Target: c.From, Reason: fleet.Reason{
		Code:    fleet.ReasonRollbackUnverified,
		Message: fmt.Sprintf("what this host went back to does not prove to work: %s; it went back because: %s", why, c.Cause.Message),
		Hint:    "look at the host: it goes on probing, and nothing more is tried by itself; publish a new generation once it is known what is wrong",
	}}
}

// unreached is why nobody could be reached.
func unreached(c *Change) string {
	if c.ReachDetail != "" {
		return c.ReachDetail
	}
	return "the coordinator could not be reached over a new connection"
}

func failed(c *Change, message string) Plan {
	return Plan{Step: StepFail, Target: c.From, Reason: fleet.Reason{
		Code: fleet.ReasonRollbackFailed, Message: message,
		Hint: "look at fleet-agent logs, repair the host, then run fleet-agent retry or publish a new generation",
	}}
}

// lookAgain is how soon what can't be told is looked at again.
const lookAgain = 5 * time.Second

func rebooting(why string) fleet.Reason {
	return fleet.Reason{Code: fleet.ReasonRebooting, Message: "the host is rebooted: " + why}
}

func rollBack(c *Change, code fleet.ReasonCode, message string) Plan {
	if c.Correction && code != fleet.ReasonActivationUnknown {
		return Plan{Step: StepRollBack, Target: c.From, Reason: fleet.Reason{
			Code: fleet.ReasonCorrectionFailed, Message: message,
			Hint: "see fleet-agent logs; the host is left as it was made by hand until a new generation comes, or fleet-agent retry tries again",
		}}
	}
	return Plan{Step: StepRollBack, Target: c.From, Reason: fleet.Reason{
		Code: code, Message: message,
		Hint: "see fleet-agent logs; publish a new generation, or retry this one with fleetctl retry, or here with fleet-agent retry",
	}}
}
