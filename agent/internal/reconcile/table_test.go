package reconcile

import (
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestDecide(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	one, two, three := ref(1), ref(2), ref(3)
	// A host that runs one, accepted two, and has it staged.
	settled := func(change func(*Observed)) Observed {
		o := Observed{
			Adopted: true, Current: one, Highest: two, HasLastGood: true, Staged: two.Digest,
			Refused: map[fleet.Digest]fleet.Reason{},
		}
		change(&o)
		return o
	}
	flight := func(c Change, changes ...func(*Observed)) Observed {
		c.From, c.To = one, two
		return settled(func(o *Observed) {
			o.Change = &c
			for _, change := range changes {
				change(o)
			}
		})
	}
	want := func(r fleet.Ref) Desired { return Desired{Target: &r} }
	manage, keep := Policy{Mode: fleet.ModeManage}, Policy{Mode: fleet.ModeManage, OnInconclusive: fleet.InconclusiveKeep}
	doubt := fleet.Reason{Code: fleet.ReasonRollbackUnverified, Message: "a probe fails"}
	same := func(*Observed) {}
	// One that runs one, which is all that it knows, but for what a person made of it.
	overridden := func(change func(*Observed)) Observed {
		return settled(func(o *Observed) {
			o.Highest, o.Staged, o.Drift = one, one.Digest, "/nix/store/x runs"
			change(o)
		})
	}
	corrected := func(change func(*Observed)) Observed {
		return overridden(func(o *Observed) {
			o.DriftStands = true
			change(o)
		})
	}
	correct := Policy{Mode: fleet.ModeManage, CorrectDrift: true}
	// One that runs two, by hand, while one is on record.
	correcting := func(c Change) Observed {
		c.From, c.To, c.Correction = two, one, true
		return settled(func(o *Observed) { o.Highest, o.Staged, o.Change = one, "", &c })
	}
	for _, c := range []struct {
		name   string
		d      Desired
		o      Observed
		p      Policy
		step   Step
		target fleet.Ref
		reason fleet.ReasonCode
	}{
		{"adopts first", want(two), Observed{}, manage, StepAdopt, fleet.Ref{}, ""},
		{"nothing desired", Desired{}, settled(same), manage, StepNothing, one, fleet.ReasonNothingDesired},
		{"all refused", Desired{Refusal: fleet.Reason{Code: "expired"}}, settled(same), manage, StepNothing, one, "expired"},
		{"accepts what is new", want(three), settled(same), manage, StepAccept, three, fleet.ReasonNewGeneration},
		{"accepts while observing", want(three), settled(same), Policy{Mode: fleet.ModeObserve}, StepAccept, three, fleet.ReasonNewGeneration},
		{"observes", want(two), settled(same), Policy{Mode: fleet.ModeObserve}, StepHold, two, fleet.ReasonObserve},
		{"observes where no mode is set", want(two), settled(same), Policy{}, StepHold, two, fleet.ReasonObserve},
		{"paused when staged", want(two), settled(same), Policy{Mode: fleet.ModeManage, Paused: "x"}, StepHold, two, fleet.ReasonPaused},
		{"fetches while paused", want(two), settled(func(o *Observed) { o.Staged = "" }), Policy{Mode: fleet.ModeManage, Paused: "x"}, StepFetch, two, fleet.ReasonNewGeneration},
		{"waits for a host that is not fit", want(two), settled(func(o *Observed) { o.Staged, o.Hindrance = "", fleet.Reason{Code: fleet.ReasonNoUser} }), manage, StepHold, two, fleet.ReasonNoUser},
		{"waits for another profile's change", want(two), settled(func(o *Observed) { o.Before = "home/ann" }), manage, StepHold, two, fleet.ReasonAnotherProfile},
		{"builds meanwhile", want(two), settled(func(o *Observed) { o.Before, o.Staged, o.Fetched = "home/ann", "", two.Digest }), manage, StepBuild, two, fleet.ReasonNewGeneration},
		{"starts no intent meanwhile", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone}, func(o *Observed) { o.Before = fleet.System }), manage, StepWithdraw, two, fleet.ReasonAnotherProfile},
		{"goes on with what began", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded}, func(o *Observed) { o.Before = fleet.System }), manage, StepActivated, two, ""},
		{"goes back all the same", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictFail}, func(o *Observed) { o.Before = fleet.System }), manage, StepRollBack, one, fleet.ReasonProbeFailed},
		{"also at a person's word", want(one), settled(func(o *Observed) {
			o.Before, o.RollBackAsked = fleet.System, fleet.Reason{Code: fleet.ReasonOperatorRefused}
		}), manage, StepRollBack, fleet.Ref{}, fleet.ReasonOperatorRefused},
		{"also with what is staged", want(two), settled(func(o *Observed) { o.Hindrance = fleet.Reason{Code: fleet.ReasonNoUser} }), manage, StepHold, two, fleet.ReasonNoUser},
		{"accepts on one", want(three), settled(func(o *Observed) { o.Hindrance = fleet.Reason{Code: fleet.ReasonNoUser} }), manage, StepAccept, three, fleet.ReasonNewGeneration},
		{"verifies no home that is not there", want(two), flight(Change{Phase: PhaseVerifying}, func(o *Observed) { o.Hindrance = fleet.Reason{Code: fleet.ReasonHomeUnusable} }), manage, StepHold, two, fleet.ReasonHomeUnusable},
		{"nor goes back in it", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunNone}, func(o *Observed) { o.Hindrance = fleet.Reason{Code: fleet.ReasonHomeUnusable} }), manage, StepHold, two, fleet.ReasonHomeUnusable},
		{"nor at a person's word", want(two), settled(func(o *Observed) {
			o.RollBackAsked, o.Hindrance = fleet.Reason{Code: fleet.ReasonOperatorRefused}, fleet.Reason{Code: fleet.ReasonHomeUnusable}
		}), manage, StepHold, one, fleet.ReasonHomeUnusable},
		{"what was booted, with no coordinator before", want(two), flight(Change{Phase: PhaseVerifying, Boots: true, Booted: true, CameUp: true, Probes: fleet.VerdictPass, Overdue: true}), manage, StepVerified, two, ""},
		{"goes back on one", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictFail, Reached: true}, func(o *Observed) { o.Hindrance = fleet.Reason{Code: fleet.ReasonNoUser} }), manage, StepRollBack, one, fleet.ReasonProbeFailed},
		{"builds", want(two), settled(func(o *Observed) { o.Staged, o.Fetched = "", two.Digest }), manage, StepBuild, two, fleet.ReasonNewGeneration},
		{"activates", want(two), settled(same), manage, StepActivate, two, fleet.ReasonNewGeneration},
		{"never a lower number", want(one), settled(func(o *Observed) { o.Current = fleet.Ref{} }), manage, StepNothing, fleet.Ref{}, fleet.ReasonRefused},
		{"but on revert", Desired{Target: &one, Revert: true}, settled(func(o *Observed) { o.Current = two }), manage, StepFetch, one, fleet.ReasonRevert},
		{"never what failed", want(two), settled(func(o *Observed) { o.Refused[two.Digest] = fleet.Reason{Code: fleet.ReasonProbeFailed} }), manage, StepNothing, one, fleet.ReasonProbeFailed},
		{"waits", want(two), settled(func(o *Observed) {
			o.Wait = &Wait{Until: now.Add(time.Second), Reason: fleet.Reason{Code: fleet.ReasonFetchFailed}}
		}), manage, StepHold, two, fleet.ReasonFetchFailed},
		{"and no longer", want(two), settled(func(o *Observed) { o.Wait = &Wait{Until: now} }), manage, StepActivate, two, fleet.ReasonNewGeneration},
		{"up to date", want(one), settled(func(o *Observed) { o.Highest = one }), manage, StepNothing, one, fleet.ReasonUpToDate},
		{"overridden", want(one), overridden(same), manage, StepNothing, one, fleet.ReasonOverridden},
		{"overridden, and stale", want(one), overridden(same), Policy{Mode: fleet.ModeManage, Stale: fleet.Reason{Code: fleet.ReasonStale}}, StepNothing, one, fleet.ReasonOverridden},
		{"overridden, and something is refused", Desired{Target: &one, Refusal: fleet.Reason{Code: "expired"}}, overridden(same), manage, StepNothing, one, "expired"},
		{"overridden, and there is news", want(two), overridden(func(o *Observed) { o.Staged, o.Highest = two.Digest, two }), manage, StepActivate, two, fleet.ReasonNewGeneration},
		{"not overridden before all is on record", want(one), overridden(func(o *Observed) { o.Unconfirmed = true }), manage, StepNothing, one, fleet.ReasonAwaitingAck},
		{"awaits the ack", want(one), settled(func(o *Observed) { o.Highest, o.Unconfirmed = one, true }), manage, StepNothing, one, fleet.ReasonAwaitingAck},
		{"confirms", want(one), settled(func(o *Observed) { o.Highest, o.Unconfirmed, o.Acked = one, true, true }), manage, StepConfirm, one, ""},
		{"a person's rollback", want(one), settled(func(o *Observed) { o.RollBackAsked = fleet.Reason{Code: fleet.ReasonOperatorRefused} }), manage, StepRollBack, fleet.Ref{}, fleet.ReasonOperatorRefused},

		{"tries again what was never verified", want(one), settled(func(o *Observed) { o.Highest, o.Staged, o.Unsure = one, one.Digest, true }), manage, StepActivate, one, fleet.ReasonNewGeneration},
		{"and starts it", want(one), settled(func(o *Observed) {
			o.Highest, o.Change = one, &Change{Phase: PhaseActivating, Run: RunNone, From: one, To: one}
		}), manage, StepStart, one, ""},
		{"confirms nothing while a change is kept", want(two), settled(func(o *Observed) {
			o.Unconfirmed, o.Acked = true, true
			o.Change = &Change{Phase: PhaseVerifying, From: two, To: one, Probes: fleet.VerdictInconclusive, Reached: true, Overdue: true}
		}), manage, StepActivate, two, fleet.ReasonNewGeneration},

		{"starts what never ran", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepStart, two, ""},
		{"starts it, whatever else was refused", Desired{Target: &two, Refusal: fleet.Reason{Code: "unknown-key"}}, flight(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepStart, two, ""},
		{"starts it, whatever failed before", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone}, func(o *Observed) {
			o.Wait = &Wait{Until: now.Add(time.Second), Reason: fleet.Reason{Code: fleet.ReasonFetchFailed}}
		}), manage, StepStart, two, ""},
		{"starts no expired one", Desired{Refusal: fleet.Reason{Code: "expired"}}, flight(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepWithdraw, two, "expired"},
		{"starts none that is not desired", Desired{}, flight(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepWithdraw, two, fleet.ReasonNothingDesired},
		{"starts none while paused", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone}), Policy{Mode: fleet.ModeManage, Paused: "x"}, StepWithdraw, two, fleet.ReasonPaused},
		{"starts none while observing", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone}), Policy{Mode: fleet.ModeObserve}, StepWithdraw, two, fleet.ReasonObserve},
		{"starts none that was refused", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone}, func(o *Observed) {
			o.Refused[two.Digest] = fleet.Reason{Code: fleet.ReasonOperatorRefused}
		}), manage, StepWithdraw, two, fleet.ReasonOperatorRefused},
		{"starts what is newer instead", want(three), flight(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepWithdraw, two, fleet.ReasonNewGeneration},
		{"starts none that the host is sent back from", Desired{Target: &one, Revert: true}, flight(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepWithdraw, two, fleet.ReasonUpToDate},
		{"awaits an expired one", Desired{Refusal: fleet.Reason{Code: "expired"}}, flight(Change{Phase: PhaseActivating, Run: RunRunning}), manage, StepAwait, two, ""},
		{"awaits, whatever is newer", want(three), flight(Change{Phase: PhaseActivating, Run: RunRunning}), manage, StepAwait, two, ""},
		{"awaits, although paused", want(two), flight(Change{Phase: PhaseActivating, Run: RunRunning}), Policy{Paused: "x"}, StepAwait, two, ""},
		{"activated", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded}), manage, StepActivated, two, ""},
		{"failed", want(two), flight(Change{Phase: PhaseActivating, Run: RunFailed}), manage, StepRollBack, one, fleet.ReasonActivationFailed},
		{"hung", want(two), flight(Change{Phase: PhaseActivating, Run: RunHung}), manage, StepRollBack, one, fleet.ReasonActivationHung},
		{"lost", want(two), flight(Change{Phase: PhaseActivating, Run: RunLost}), manage, StepRollBack, one, fleet.ReasonActivationUnknown},

		{"verifies", want(three), flight(Change{Phase: PhaseVerifying}), manage, StepVerify, two, ""},
		{"boots what needs it", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded, Boots: true}), manage, StepReboot, two, fleet.ReasonRebooting},
		{"which came up", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded, Boots: true, Booted: true, CameUp: true}), manage, StepActivated, two, ""},
		{"which did not", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded, Boots: true, Booted: true, BootNow: "x"}), manage, StepRollBack, one, fleet.ReasonBootFailed},
		{"which nobody can tell", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded, Boots: true, Booted: true}), manage, StepHold, two, fleet.ReasonVerifying},
		{"a boot before it began", want(two), flight(Change{Phase: PhaseActivating, Run: RunNone, Boots: true, Booted: true}), manage, StepWithdraw, two, fleet.ReasonActivationUnknown},
		{"keeps nothing that was booted", want(two), flight(Change{Phase: PhaseVerifying, Boots: true, Booted: true, CameUp: true, Probes: fleet.VerdictInconclusive, Reached: true, Overdue: true}), keep, StepRollBack, one, fleet.ReasonInconclusive},
		{"which came up, and had no agent", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded, Boots: true, Booted: true, Fired: true}), manage, StepRollBack, one, fleet.ReasonNotVerified},
		{"boots nothing that the switch took back", want(two), flight(Change{Phase: PhaseActivating, Run: RunSucceeded, Boots: true, Fired: true}), manage, StepRollBack, one, fleet.ReasonActivationUnknown},
		{"a boot in the midst of the verification", want(two), flight(Change{Phase: PhaseVerifying, Booted: true, BootNow: "x", Probes: fleet.VerdictPass, Reached: true}), manage, StepRollBack, one, fleet.ReasonActivationUnknown},
		{"or perhaps not", want(two), flight(Change{Phase: PhaseVerifying, Booted: true, Probes: fleet.VerdictPass, Reached: true}), manage, StepVerified, two, ""},
		{"which changed nothing", want(two), flight(Change{Phase: PhaseVerifying, Booted: true, CameUp: true, Probes: fleet.VerdictPass, Reached: true}), manage, StepVerified, two, ""},
		{"back, and to its kernel", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, OldKernel: true, MayReboot: true}), manage, StepReboot, one, fleet.ReasonRebooting},
		{"back, where nobody may reboot it", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, OldKernel: true, Probes: fleet.VerdictPass}), manage, StepRolledBack, one, ""},
		{"back, and rebooted once", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, OldKernel: true, MayReboot: true, Rebooted: true, Returned: true, Probes: fleet.VerdictPass}), manage, StepRolledBack, one, ""},
		{"back, and rebooted into something else", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, MayReboot: true, Rebooted: true}), manage, StepFail, one, fleet.ReasonRollbackFailed},
		{"the way back fails, and may be booted", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunFailed, Attempts: MaxRollBackAttempts, MayReboot: true}), manage, StepReboot, one, fleet.ReasonRebooting},
		{"not before it was tried", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunFailed, Attempts: 1, MayReboot: true, Rebooted: true, Returned: true}), manage, StepRollBack, one, ""},
		{"booted, and back", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunFailed, Attempts: MaxRollBackAttempts, MayReboot: true, Rebooted: true, Returned: true, Probes: fleet.VerdictPass}), manage, StepRolledBack, one, ""},
		{"booted, and verified first", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunFailed, Attempts: MaxRollBackAttempts, MayReboot: true, Rebooted: true, Returned: true}), manage, StepVerify, one, ""},
		{"booted, and not back: never twice", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunFailed, Attempts: MaxRollBackAttempts, MayReboot: true, Rebooted: true}), manage, StepFail, one, fleet.ReasonRollbackFailed},
		{"waits for a person to have it booted", want(two), settled(func(o *Observed) { o.NeedsBoot = "kernel" }), Policy{Mode: fleet.ModeManage, RebootAsks: true}, StepHold, two, fleet.ReasonRebootAsk},
		{"who says so", want(two), settled(func(o *Observed) { o.NeedsBoot, o.BootAllowed = "kernel", true }), Policy{Mode: fleet.ModeManage, RebootAsks: true}, StepActivate, two, fleet.ReasonNewGeneration},
		{"leaves no host without an agent", want(two), flight(Change{Phase: PhaseVerifying, Orphaned: "x", Probes: fleet.VerdictPass, Reached: true}), manage, StepRollBack, one, fleet.ReasonAgentMissing},
		{"passes", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictPass, Reached: true}), manage, StepVerified, two, ""},
		{"probe fails", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictFail, Reached: true}), keep, StepRollBack, one, fleet.ReasonProbeFailed},
		{"out of reach", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictPass, Overdue: true, OnlineBefore: true}), manage, StepRollBack, one, fleet.ReasonUnreachable},
		{"out of reach, kept by policy", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictPass, Overdue: true, OnlineBefore: true}), keep, StepVerify, two, fleet.ReasonUnreachable},
		{"out of reach, as before", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictPass, Overdue: true}), manage, StepVerify, two, fleet.ReasonUnreachable},
		{"inconclusive", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictInconclusive, Reached: true, Overdue: true, OnlineBefore: true}), manage, StepRollBack, one, fleet.ReasonInconclusive},
		{"kept, and superseded", want(three), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictInconclusive, Reached: true, Overdue: true}), manage, StepAccept, three, fleet.ReasonNewGeneration},
		{"kept while observing", want(three), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictInconclusive, Reached: true, Overdue: true}), Policy{Mode: fleet.ModeObserve}, StepVerify, two, fleet.ReasonInconclusive},
		{"commits", want(three), flight(Change{Phase: PhaseVerified}), manage, StepCommit, two, ""},

		{"starts the rollback", want(three), flight(Change{Phase: PhaseRollingBack, Run: RunNone}), manage, StepStart, one, ""},
		{"back, and verified", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded}), manage, StepVerify, one, ""},
		{"rolled back", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictPass, Reached: true, OnlineBefore: true}), manage, StepRolledBack, one, ""},
		{"rolled back, without a coordinator as before", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictPass}), manage, StepRolledBack, one, ""},
		{"back, and waits for the coordinator", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictPass, OnlineBefore: true}), manage, StepVerify, one, ""},
		{"back, and out of reach", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictPass, OnlineBefore: true, Overdue: true}), manage, StepRolledBack, one, fleet.ReasonRollbackUnverified},
		{"back, out of reach, and booted", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictPass, OnlineBefore: true, Overdue: true, MayReboot: true}), manage, StepReboot, one, fleet.ReasonRebooting},
		{"back, and a probe fails", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictFail, Reached: true, Overdue: true}), manage, StepRolledBack, one, fleet.ReasonRollbackUnverified},
		{"back, a probe fails, and booted", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictFail, Reached: true, Overdue: true, MayReboot: true}), manage, StepReboot, one, fleet.ReasonRebooting},
		{"never twice", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictFail, Overdue: true, MayReboot: true, Rebooted: true, Returned: true}), manage, StepRolledBack, one, fleet.ReasonRollbackUnverified},
		{"nor for what nobody can tell", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictInconclusive, Reached: true, Overdue: true, MayReboot: true}), manage, StepRolledBack, one, fleet.ReasonRollbackUnverified},
		{"back, and something newer is to run", want(three), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, MayReboot: true}), manage, StepRolledBack, one, fleet.ReasonRollbackUnverified},
		{"out of reach, and witnessed", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictPass, Overdue: true, OnlineBefore: true, Witnessed: true}), manage, StepVerified, two, ""},
		{"witnessed, and it may come yet", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictPass, OnlineBefore: true, Witnessed: true}), manage, StepVerify, two, ""},
		{"a probe is inconclusive, and witnessed", want(two), flight(Change{Phase: PhaseVerifying, Probes: fleet.VerdictInconclusive, Overdue: true, OnlineBefore: true, Witnessed: true}), manage, StepRollBack, one, fleet.ReasonInconclusive},
		{"back, out of reach, and witnessed", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunSucceeded, Probes: fleet.VerdictPass, OnlineBefore: true, Overdue: true, MayReboot: true, Witnessed: true}), manage, StepRolledBack, one, ""},
		{"corrects", want(one), corrected(same), correct, StepActivate, one, fleet.ReasonCorrecting},
		{"not at the first look", want(one), corrected(func(o *Observed) { o.DriftStands = false }), correct, StepNothing, one, fleet.ReasonOverridden},
		{"not again so soon", want(one), corrected(func(o *Observed) { o.CorrectAt = now.Add(time.Minute) }), correct, StepHold, one, fleet.ReasonOverridden},
		{"not what failed", want(one), corrected(func(o *Observed) { o.CorrectionFailed = fleet.Reason{Code: fleet.ReasonCorrectionFailed} }), correct, StepNothing, one, fleet.ReasonOverridden},
		{"not while paused", want(one), corrected(same), Policy{Mode: fleet.ModeManage, CorrectDrift: true, Paused: "lunch"}, StepNothing, one, fleet.ReasonOverridden},
		{"not while it observes", want(one), corrected(same), Policy{Mode: fleet.ModeObserve, CorrectDrift: true}, StepNothing, one, fleet.ReasonOverridden},
		{"nor what was not acknowledged", want(one), corrected(func(o *Observed) { o.Unconfirmed = true }), correct, StepNothing, one, fleet.ReasonAwaitingAck},
		{"a correction goes wrong", want(one), correcting(Change{Phase: PhaseVerifying, Probes: fleet.VerdictFail}), correct, StepRollBack, two, fleet.ReasonCorrectionFailed},
		{"a correction is cut short", want(one), correcting(Change{Phase: PhaseActivating, Run: RunLost}), correct, StepRollBack, two, fleet.ReasonActivationUnknown},
		{"a correction is cut short by a boot into it", want(one), correcting(Change{Phase: PhaseActivating, Run: RunLost, Booted: true, CameUp: true}), correct, StepActivated, one, ""},
		{"a correction that never began", want(one), correcting(Change{Phase: PhaseActivating, Run: RunNone}), correct, StepStart, one, ""},
		{"what it was to undo is another thing", want(one), correcting(Change{Phase: PhaseActivating, Run: RunNone, Stale: true}), correct, StepWithdraw, one, fleet.ReasonOverridden},
		{"the policy leaves it by now", want(one), correcting(Change{Phase: PhaseActivating, Run: RunNone}), manage, StepWithdraw, one, fleet.ReasonOverridden},
		{"in doubt it looks again", want(two), settled(func(o *Observed) {
			o.Doubt = doubt
			o.Refused[two.Digest] = fleet.Reason{Code: fleet.ReasonProbeFailed}
		}), manage, StepVerify, one, fleet.ReasonRollbackUnverified},
		{"until something better comes", want(three), settled(func(o *Observed) { o.Doubt = doubt }), manage, StepAccept, three, fleet.ReasonNewGeneration},
		{"rolls back again", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunLost, Attempts: 1}), manage, StepRollBack, one, ""},
		{"never a loop", want(two), flight(Change{Phase: PhaseRollingBack, Run: RunFailed, Attempts: MaxRollBackAttempts}), manage, StepFail, one, fleet.ReasonRollbackFailed},
		{"stays failed", want(two), settled(func(o *Observed) { o.Broken, o.BrokenWith = true, two.Number }), manage, StepNothing, one, fleet.ReasonRollbackFailed},
		{"until a new number comes", want(three), settled(func(o *Observed) { o.Broken, o.BrokenWith = true, two.Number }), manage, StepAccept, three, fleet.ReasonNewGeneration},
		{"unknown phase goes back", want(two), flight(Change{Phase: "new"}), manage, StepRollBack, one, fleet.ReasonInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, _ := Decide(now, c.d, c.o, c.p)
			if plan.Step != c.step || plan.Target != c.target || plan.Reason.Code != c.reason {
				t.Errorf("got %s %s (%s), want %s %s (%s)", plan.Step, plan.Target.Number, plan.Reason.Code,
					c.step, c.target.Number, c.reason)
			}
		})
	}
}

// TestReasons: nothing that bears on where a profile is stays unsaid.
func TestReasons(t *testing.T) {
	d := Desired{Refusal: fleet.Reason{Code: "expired", Message: "too late"}}
	_, reasons := Decide(time.Unix(0, 0), d, Observed{
		Adopted: true, Change: &Change{Phase: PhaseActivating, Run: RunFailed},
	}, Policy{Paused: "lunch"})
	var codes []fleet.ReasonCode
	for _, r := range reasons {
		codes = append(codes, r.Code)
	}
	if len(codes) != 3 || codes[0] != fleet.ReasonActivationFailed || codes[1] != "expired" || codes[2] != fleet.ReasonPaused {
		t.Errorf("reasons: %v", codes)
	}
}
