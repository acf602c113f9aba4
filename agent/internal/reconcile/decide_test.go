package reconcile

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestConverges publishes generations of every kind at a host that crashes at
// every point: it always comes to rest, in bounded steps, with a verified or
// kept generation, or its last-good, running.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.policy.OnInconclusive = rapid.SampledFrom([]fleet.OnInconclusive{
			"", fleet.InconclusiveRollback, fleet.InconclusiveKeep,
		}).Draw(t, "on inconclusive")
		highest := uint64(0)
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			w.online = rapid.Bool().Draw(t, "online")
			w.policy.CorrectDrift = rapid.Bool().Draw(t, "corrects drift")
			w.wornOut = rapid.SampledFrom([]fleet.Verdict{"", "", "", fleet.VerdictFail, fleet.VerdictInconclusive}).Draw(t, "worn out")
			w.heals = rapid.Bool().Draw(t, "heals")
			w.others = rapid.IntRange(0, 5).Draw(t, "others")
			publish(t, w, &highest)
			crashes := rapid.IntRange(0, 4).Draw(t, "crashes")
			settle(t, w, crashes)
			atRest(t, w)
			correctedByHand(t, w)
		}
	})
}

// TestChangesItsMind has documents expire, come back and be superseded, the
// host be paused and told to observe, and the agent crash between any two steps:
// nothing begins that may not at that moment, nobody is to blame for that, and
// once all is allowed the host arrives.
func TestChangesItsMind(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.online = rapid.Bool().Draw(t, "online")
		highest := uint64(0)
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			highest++
			r := ref(highest)
			good := Desired{Target: &r}
			w.desired = good
			for range rapid.IntRange(0, 40).Draw(t, "steps") {
				switch rapid.SampledFrom([]string{"", "", "", "", "expire", "renew", "pause", "observe", "allow", "crash", "another"}).Draw(t, "meanwhile") {
				case "another":
					w.others = rapid.IntRange(0, 5).Draw(t, "others")
				case "expire":
					w.desired = Desired{Refusal: fleet.Reason{Code: "expired"}}
				case "renew":
					w.desired = good
				case "pause":
					w.policy.Paused = "lunch"
				case "observe":
					w.policy.Mode = fleet.ModeObserve
				case "allow":
					w.policy = Policy{Mode: fleet.ModeManage}
				case "crash":
					w.crash(false)
				}
				w.step(t)
			}
			if rapid.Bool().Draw(t, "superseded") {
				continue
			}
			w.desired, w.policy = good, Policy{Mode: fleet.ModeManage}
			settle(t, w, 0)
			atRest(t, w)
			if w.running != r || len(w.obs.Refused) > 0 {
				t.Fatalf("%s runs, %s is desired, refused are %v: %v", w.running.Number, r.Number, w.obs.Refused, w.log)
			}
		}
	})
}

func publish(t *rapid.T, w *world, highest *uint64) {
	switch rapid.SampledFrom([]string{"new", "new", "new", "revert", "none", "refused", "operator"}).Draw(t, "publish") {
	case "new":
		*highest += uint64(rapid.IntRange(1, 3).Draw(t, "jump"))
		r := ref(*highest)
		w.desired = Desired{Target: &r}
		switch rapid.SampledFrom([]string{"good", "good", "fails", "hangs", "lost", "probe", "inconclusive"}).Draw(t, "quality") {
		case "fails":
			w.bad[r.Digest] = RunFailed
		case "hangs":
			w.bad[r.Digest] = RunHung
		case "lost":
			w.bad[r.Digest] = RunLost
		case "probe":
			w.probes[r.Digest] = fleet.VerdictFail
		case "inconclusive":
			w.probes[r.Digest] = fleet.VerdictInconclusive
		}
		switch rapid.SampledFrom([]string{"", "", "boots", "panics"}).Draw(t, "kernel") {
		case "boots":
			w.boots[r.Digest] = true
		case "panics":
			w.boots[r.Digest] = false
		}
	case "revert":
		if *highest > 1 {
			r := ref(uint64(rapid.IntRange(1, int(*highest)-1).Draw(t, "to")))
			w.desired = Desired{Target: &r, Revert: true}
		}
	case "none":
		w.desired = Desired{}
	case "refused":
		w.desired = Desired{Refusal: fleet.Reason{Code: "expired"}}
	case "operator":
		if c := w.obs.Change; c != nil && c.From == c.To {
			return // The agent refuses: there is nowhere to go.
		}
		w.obs.RollBackAsked = fleet.Reason{Code: fleet.ReasonOperatorRefused}
	}
}

// correctedByHand has a person switch a host that rests, now and then to what fails when
// it is to be left: where the policy corrects that, what is on record runs again, or it was
// tried once and nothing is blamed for it.
func correctedByHand(t *rapid.T, w *world) {
	if w.obs.Change != nil || w.obs.Unconfirmed || w.obs.Current.Digest == "" || w.obs.Current != w.running || !rapid.Bool().Draw(t, "by hand") {
		return
	}
	w.policy.CorrectDrift = rapid.Bool().Draw(t, "corrects")
	w.policy.OnInconclusive = ""
	left, refused := w.obs.Current, len(w.obs.Refused)
	how, fails := w.bad[left.Digest]
	if !fails && rapid.Bool().Draw(t, "correction fails") {
		w.bad[left.Digest], how = RunFailed, RunFailed
		defer delete(w.bad, left.Digest)
	}
	w.byHand(ref(90))
	desired := w.desired.Target != nil && *w.desired.Target == left
	settle(t, w, rapid.IntRange(0, 2).Draw(t, "crashes by hand"))
	switch failed := w.obs.CorrectionFailed.Code != ""; {
	case len(w.obs.Refused) != refused:
		t.Fatalf("something is blamed for what a person did (%s): %v", how, w.log)
	case w.obs.Current != left && desired:
		t.Fatalf("%s is on record: %v", w.obs.Current.Number, w.log)
	case !desired:
	case w.policy.CorrectDrift && !failed && w.running != left: // What was cut short was tried again an hour later.
		t.Fatalf("not corrected, and did not fail: %v", w.log)
	case !w.policy.CorrectDrift && w.running == left:
		t.Fatalf("corrected although the policy leaves it: %v", w.log)
	}
	// The person puts it back.
	if w.obs.Change == nil && w.running != w.obs.Current && w.obs.Current == left {
		w.byHand(left)
	}
	settle(t, w, 0)
	atRest(t, w)
}

func settle(t *rapid.T, w *world, crashes int) {
	for range 200 {
		if crashes > 0 && rapid.IntRange(0, 3).Draw(t, "crash now") == 0 {
			crashes--
			w.crash(rapid.Bool().Draw(t, "whole host"))
		}
		if !w.step(t) {
			return
		}
	}
	t.Fatalf("no rest after 200 steps; the last: %v", w.log[len(w.log)-12:])
}

func atRest(t *rapid.T, w *world) {
	o := w.obs
	if o.Broken {
		if !w.undoFails && o.Change == nil && o.Current == w.running {
			return // host crashes ate all attempts; the journal says so
		}
		return
	}
	if c := o.Change; c != nil && (c.Phase != PhaseVerifying || !c.Overdue) {
		t.Fatalf("at rest in the middle of %s: %v", c.Phase, w.log)
	}
	if o.Drift != "" && o.CorrectionFailed.Code != "" {
		return // As a person left it, and that is known.
	}
	if o.Current != w.running {
		t.Fatalf("the journal says %s runs, but %s does: %v", o.Current.Number, w.running.Number, w.log)
	}
	if why, bad := o.Refused[o.Current.Digest]; bad {
		t.Fatalf("refused generation %s runs (%s): %v", o.Current.Number, why.Code, w.log)
	}
	d := w.desired.Target
	if d == nil || o.Current.Digest == d.Digest {
		return
	}
	_, refused := o.Refused[d.Digest]
	if !refused && o.Change == nil {
		t.Fatalf("at rest on %s although %s is desired: %v", o.Current.Number, d.Number, w.log)
	}
}

// TestTotal feeds arbitrary facts: there is always a known step, activation
// obeys its rules, and the same facts give the same plan.
func TestTotal(t *testing.T) {
	known := map[Step]bool{}
	for _, s := range []Step{
		StepNothing, StepHold, StepAdopt, StepAccept, StepFetch, StepBuild, StepTell, StepActivate, StepStart, StepWithdraw, StepAwait,
		StepReboot, StepActivated, StepVerify, StepVerified, StepCommit, StepConfirm, StepRollBack, StepRolledBack, StepFail,
	} {
		known[s] = true
	}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.obs = anyObserved(t)
		w.obs.Console = anyConsole(t, w.now)
		w.policy = Policy{
			Mode:           rapid.SampledFrom([]fleet.Mode{fleet.ModeObserve, fleet.ModeManage, ""}).Draw(t, "mode"),
			Paused:         rapid.SampledFrom([]string{"", "lunch"}).Draw(t, "paused"),
			OnInconclusive: rapid.SampledFrom([]fleet.OnInconclusive{"", fleet.InconclusiveKeep}).Draw(t, "keep"),
		}
		if rapid.Bool().Draw(t, "desired") {
			r := ref(rapid.Uint64Range(1, 5).Draw(t, "target")) // Documents have digests.
			w.desired = Desired{Target: &r, Revert: rapid.Bool().Draw(t, "revert")}
		}
		plan, reasons := Decide(w.now, w.desired, w.obs, w.policy)
		if !known[plan.Step] {
			t.Fatalf("unknown step %q", plan.Step)
		}
		if plan.Step == StepActivate {
			// The intent that follows from it is carried out, not taken back.
			o := snapshot(w.obs)
			o.Change = &Change{Phase: PhaseActivating, Run: RunNone, From: o.Current, To: plan.Target}
			o.Staged, o.Unsure = "", false
			if next, _ := Decide(w.now, w.desired, o, w.policy); next.Step != StepStart {
				t.Fatalf("decided to activate %s, then %s", plan.Target.Number, next.Step)
			}
		}
		if plan.Reason.Code != "" && (len(reasons) == 0 || reasons[0] != plan.Reason) {
			t.Fatalf("the plan's reason does not come first: %v", reasons)
		}
		w.check(t, plan)
		if plan.Step == StepHold && !plan.Until.IsZero() && !plan.Until.After(w.now) {
			t.Fatalf("holds until %s, which is past", plan.Until)
		}
	})
}

func anyRef(t *rapid.T, label string) fleet.Ref {
	if n := rapid.Uint64Range(0, 5).Draw(t, label); n > 0 {
		return ref(n)
	}
	return fleet.Ref{}
}

func anyObserved(t *rapid.T) Observed {
	o := Observed{
		Adopted: rapid.Bool().Draw(t, "adopted"),
		Current: anyRef(t, "current"), LastGood: anyRef(t, "last-good"), Highest: anyRef(t, "highest"),
		HasLastGood: rapid.Bool().Draw(t, "has"), Refused: map[fleet.Digest]fleet.Reason{},
		Unsure:      rapid.Bool().Draw(t, "unsure"),
		Unconfirmed: rapid.Bool().Draw(t, "unconfirmed"), Acked: rapid.Bool().Draw(t, "acked"),
		Broken:  rapid.Bool().Draw(t, "broken"),
		Fetched: anyRef(t, "fetched").Digest, Staged: anyRef(t, "staged").Digest,
	}
	for range rapid.IntRange(0, 2).Draw(t, "refusals") {
		o.Refused[anyRef(t, "refused").Digest] = fleet.Reason{Code: fleet.ReasonProbeFailed}
	}
	if rapid.Bool().Draw(t, "waits") {
		o.Wait = &Wait{
			Until:  time.Unix(1_800_000_000+rapid.Int64Range(-9, 9).Draw(t, "until"), 0),
			Reason: fleet.Reason{Code: fleet.ReasonBackoff},
		}
	}
	if rapid.Bool().Draw(t, "change") {
		o.Change = &Change{
			Phase: rapid.SampledFrom([]Phase{PhaseActivating, PhaseVerifying, PhaseVerified, PhaseRollingBack, "?"}).Draw(t, "phase"),
			From:  anyRef(t, "from"), To: anyRef(t, "to"), Attempts: rapid.IntRange(0, 5).Draw(t, "attempts"),
			OnlineBefore: rapid.Bool().Draw(t, "online"),
			Run:          rapid.SampledFrom([]Run{RunNone, RunRunning, RunSucceeded, RunFailed, RunHung, RunLost, "?"}).Draw(t, "run"),
			Probes: rapid.SampledFrom([]fleet.Verdict{
				"", fleet.VerdictPass, fleet.VerdictFail, fleet.VerdictInconclusive,
			}).Draw(t, "probes"),
			Reached: rapid.Bool().Draw(t, "reached"), Overdue: rapid.Bool().Draw(t, "overdue"),
			Orphaned: rapid.SampledFrom([]string{"", "", "no agent"}).Draw(t, "orphaned"),
		}
	}
	return o
}
