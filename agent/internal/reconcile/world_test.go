package reconcile

import (
	"fmt"
	"maps"
	"time"

	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// world is a model of a host: what is durable, what is running, and what each
// step does to them. It carries out plans as the agent does, so that a test
// can crash it between any two effects.
type world struct {
	now     time.Time
	desired Desired
	policy  Policy
	obs     Observed // what is durable, with the facts of now
	// running is what serves on the host; truth that no journal can change.
	running fleet.Ref
	// bad generations fail in the way named.
	bad map[fleet.Digest]Run
	// probes is how each generation's probes turn out.
	probes map[fleet.Digest]fleet.Verdict
	// wornOut is how what is gone back to turns out: the world changed since it was
	// verified. Empty: it works.
	wornOut     fleet.Verdict
	heals       bool // by a reboot
	online      bool
	interrupted map[fleet.Digest]int
	// superseded is the change, kept unverified, that the one in flight took the
	// place of.
	superseded *Change
	// looked counts verify steps since the activation, a stand-in for time.
	looked int
	// boots are generations that need a boot, and whether they come up. kernel is what was
	// booted, and reboots counts the host's own since the change began.
	boots   map[fleet.Digest]bool
	kernel  fleet.Ref
	reboots int
	// others is for how many looks another profile's change is in the way.
	others int
	// undone is set when a rollback can't work.
	undoFails bool
	// console keeps what is owed to whoever is at the console; nil for nothing.
	console *Console
	log     []string
}

func ref(n uint64) fleet.Ref {
	return fleet.Ref{
		Number:  fleet.Number{Epoch: 1, Seq: n},
		Digest:  fleet.Digest(fmt.Sprintf("sha256:%064d", n)),
		Release: fleet.ReleaseID(fmt.Sprintf("r%d", n)),
	}
}

func newWorld() *world {
	return &world{
		now: time.Unix(1_800_000_000, 0), policy: Policy{Mode: fleet.ModeManage},
		obs:         Observed{Refused: map[fleet.Digest]fleet.Reason{}},
		interrupted: map[fleet.Digest]int{}, boots: map[fleet.Digest]bool{},
		bad: map[fleet.Digest]Run{}, probes: map[fleet.Digest]fleet.Verdict{}, online: true,
	}
}

// step decides once and carries the step out. It reports whether anything is
// left to do now.
func (w *world) step(t *rapid.T) bool {
	w.obs.Console, w.obs.Before = w.console, ""
	if w.others > 0 {
		w.obs.Before, w.others = "home/ann", w.others-1
	}
	before := snapshot(w.obs)
	plan, _ := Decide(w.now, w.desired, w.obs, w.policy)
	again, _ := Decide(w.now, w.desired, before, w.policy)
	if plan != again {
		t.Fatalf("deciding twice differs: %v, %v", plan, again)
	}
	w.log = append(w.log, fmt.Sprintf("%s %s %s", plan.Step, plan.Target.Number, plan.Reason.Code))
	w.check(t, plan)
	w.checkBoots(t, plan)
	w.checkConsole(t, plan)
	return w.carryOut(plan)
}

// check holds what must be true of every plan.
func (w *world) check(t *rapid.T, p Plan) {
	c := w.obs.Change
	if p.Step == StepWithdraw && (c == nil || c.Phase != PhaseActivating || c.Run != RunNone || p.Reason.Code == "") {
		t.Fatalf("withdraws %+v, because of %+v", c, p.Reason)
	}
	begins := p.Step == StepActivate || p.Step == StepStart && c.Phase == PhaseActivating
	if begins && w.obs.Before != "" {
		t.Fatalf("%s while another profile's change is under way", p.Step)
	}
	if p.Step == StepStart && c.Phase == PhaseActivating {
		w.checkAllowed(t, p)
	}
	if o := w.obs; p.Step == StepActivate && p.Target == o.Current && !o.Unsure &&
		(!w.policy.CorrectDrift || !o.DriftStands || o.CorrectionFailed.Code != "" || w.now.Before(o.CorrectAt)) {
		t.Fatalf("corrects %+v", o)
	}
	if p.Step != StepActivate {
		return
	}
	w.checkAllowed(t, p)
	if w.obs.Staged != p.Target.Digest {
		t.Fatalf("activates %s, which is not staged", p.Target.Number)
	}
	if c != nil && (c.Phase != PhaseVerifying || !c.Overdue) {
		t.Fatalf("activates %s while %s is %s", p.Target.Number, c.To.Number, c.Phase)
	}
}

// checkBoots holds what must be true of reboots: one there and one back at most, and
// nothing is verified that does not run.
func (w *world) checkBoots(t *rapid.T, p Plan) {
	c := w.obs.Change
	if p.Step == StepReboot && (w.reboots >= 2 || !c.MayReboot) {
		t.Fatalf("reboots for the %dth time: %+v, %v", w.reboots+1, c, w.log)
	}
	if p.Step == StepVerified && c.To != w.running {
		t.Fatalf("%s is called verified, and %s runs: %v", c.To.Number, w.running.Number, w.log)
	}
}

// checkAllowed holds what must be true when an activation is decided upon, and
// again when it is started.
func (w *world) checkAllowed(t *rapid.T, p Plan) {
	if d := w.desired.Target; d == nil || d.Digest != p.Target.Digest {
		t.Fatalf("%s of %s although %+v is desired", p.Step, p.Target.Number, d)
	}
	if _, no := w.obs.Refused[p.Target.Digest]; no {
		t.Fatalf("%s of refused generation %s", p.Step, p.Target.Number)
	}
	if w.policy.Mode != fleet.ModeManage || w.policy.Paused != "" {
		t.Fatalf("%s in mode %s, paused %q", p.Step, w.policy.Mode, w.policy.Paused)
	}
	if p.Target.Number.Compare(w.obs.Highest.Number) < 0 && !w.desired.Revert {
		t.Fatalf("%s of %s below %s without revert", p.Step, p.Target.Number, w.obs.Highest.Number)
	}
}

func (w *world) carryOut(p Plan) bool {
	o := &w.obs
	switch p.Step {
	case StepNothing:
		return false
	case StepHold:
		if p.Until.IsZero() {
			return false
		}
		w.now = p.Until
	case StepAdopt:
		o.Adopted = true
	case StepAccept:
		o.CorrectionFailed, o.CorrectAt = fleet.Reason{}, time.Time{}
		o.Highest, o.Doubt = p.Target, fleet.Reason{} // The journal is in another phase then.
		if o.Broken && p.Target.Number.Compare(o.BrokenWith) > 0 {
			o.Broken = false
		}
	case StepTell:
		w.console.Waits = w.console.Tell(w.now)
	case StepFetch:
		o.Fetched = p.Target.Digest
	case StepBuild:
		o.Staged = p.Target.Digest
	case StepActivate:
		o.Staged, o.Fetched = "", ""
		from := o.Current
		if p.Target == o.Current && !o.Unsure {
			w.correct(p)
			break
		}
		w.superseded = o.Change
		if o.Change != nil { // kept, unverified: last-good stays what it was
			from = o.Change.From
		}
		_, boots := w.boots[p.Target.Digest]
		o.Change = &Change{
			Phase: PhaseActivating, From: from, To: p.Target, OnlineBefore: w.online, Run: RunNone, MayReboot: true,
			Boots: boots && o.Change == nil && w.superseded == nil && from == w.running && from.Digest != "",
		}
		w.looked, w.reboots = 0, 0
	case StepStart:
		w.start(o.Change)
	case StepWithdraw:
		o.Staged, o.Change, w.superseded = o.Change.To.Digest, w.superseded, nil
		w.see()
	case StepAwait:
		w.finish(o.Change)
	case StepReboot:
		w.reboots++
		w.boot(o.Change)
	case StepActivated:
		o.Change.Phase, o.Change.Run = PhaseVerifying, RunNone
		o.Current = o.Change.To
	case StepVerify:
		w.looked++
		c := o.Change
		if c == nil || c.Phase == PhaseRollingBack {
			return w.verifyBack(c)
		}
		c.Probes, c.Reached, c.Overdue = w.verdict(c.To), w.online, w.looked >= 3
		return w.looked < 6
	case StepVerified:
		o.Change.Phase, o.Unconfirmed, o.Acked = PhaseVerified, true, false
	case StepCommit:
		// What runs is no place to go back to, as after a revert from what was kept.
		if !o.Change.Correction {
			o.LastGood, o.HasLastGood = o.Change.From, o.Change.From != o.Current
		}
		o.Change = nil
		w.see()
		delete(w.interrupted, o.Current.Digest)
		o.Acked = w.online
	case StepConfirm:
		o.Unconfirmed = false
	case StepRollBack:
		w.intendRollBack(p)
	case StepRolledBack:
		if c := o.Change; p.Reason.Code == fleet.ReasonRollbackUnverified && !c.Correction {
			o.Doubt, w.looked = p.Reason, 0
		} else if p.Reason.Code != fleet.ReasonRollbackUnverified && c.Probes != fleet.VerdictPass || c.OnlineBefore && !c.Reached {
			panic("back, and nobody looked whether it works")
		}
		if o.Change.Correction {
			o.Change = nil
			w.see()
			break
		}
		o.Current, o.Change, o.Unconfirmed = o.Change.From, nil, false
		o.HasLastGood = false
	case StepFail:
		if o.Change.Correction {
			o.Change = nil
			w.see()
			break
		}
		o.Change, o.Broken, o.BrokenWith = nil, true, o.Highest.Number
	}
	return true
}

// correct begins to undo what a person made of the host.
func (w *world) correct(p Plan) {
	w.obs.Change = &Change{
		Phase: PhaseActivating, From: w.running, To: p.Target, OnlineBefore: w.online, Run: RunNone, Correction: true,
	}
	w.obs.Drift, w.obs.DriftStands = "", false
	w.obs.CorrectAt = w.now.Add(time.Hour)
	w.looked, w.reboots = 0, 0
}

// byHand has a person switch the host.
func (w *world) byHand(to fleet.Ref) {
	w.running = to
	w.see()
}

// see looks for what a person made of the host.
func (w *world) see() {
	o := &w.obs
	o.Drift, o.DriftStands = "", false
	if o.Change == nil && o.Current.Digest != "" && w.running != o.Current {
		o.Drift, o.DriftStands = w.running.Number.String()+" runs", true
	}
}

// verifyBack verifies what is gone back to, or what runs and is in doubt.
func (w *world) verifyBack(c *Change) bool {
	verdict := w.wornOut
	if verdict == "" {
		verdict = fleet.VerdictPass
	}
	if c == nil {
		if verdict == fleet.VerdictPass && w.online {
			w.obs.Doubt = fleet.Reason{}
		}
		return w.looked < 6
	}
	c.Probes, c.Reached, c.Overdue = verdict, w.online, w.looked >= 3
	return true
}

func (w *world) intendRollBack(p Plan) {
	o := &w.obs
	if o.Change == nil { // a person's
		o.Change = &Change{From: o.LastGood, To: o.Current, MayReboot: true}
		w.reboots = 0
		o.RollBackAsked = fleet.Reason{}
	}
	c := o.Change
	if c.Phase == PhaseRollingBack {
		c.Run = RunNone
		return
	}
	o.RollBackAsked = fleet.Reason{}
	if c.Correction && p.Reason.Code == fleet.ReasonCorrectionFailed {
		o.CorrectionFailed = p.Reason
	}
	if c.Correction {
		// Nothing is to blame.
	} else if Blameless(p.Reason) {
		w.interrupted[c.To.Digest]++
	}
	if c.To.Digest != "" && !c.Correction && (!Blameless(p.Reason) || w.interrupted[c.To.Digest] >= 3) {
		o.Refused[c.To.Digest] = p.Reason
	}
	c.Phase, c.Run, c.Attempts, c.Cause = PhaseRollingBack, RunNone, 0, p.Reason
	c.Probes, c.Reached, c.Overdue, w.looked = "", false, false, 0
}

// boot boots the host: with what was to be booted once, or with what boots by default,
// which is where the change leads back to.
func (w *world) boot(c *Change) {
	c.Probes, c.Reached, c.Overdue, w.looked = "", false, false, 0
	w.running, w.kernel = c.From, c.From
	if c.Phase == PhaseRollingBack {
		// Only one that was asked for counts.
		c.Rebooted, c.Returned, c.OldKernel = c.Rebooted || w.reboots > 0, true, false
		if w.reboots > 0 && w.heals {
			w.wornOut = ""
		}
		return
	}
	c.Booted, c.CameUp, c.BootNow = true, false, "what boots"
	if c.Phase == PhaseActivating && c.Run == RunSucceeded && w.boots[c.To.Digest] {
		w.running, w.kernel = c.To, c.To
		c.CameUp, c.BootNow = true, ""
	}
}

// start is the executor's: the runner lives, and the host starts to change.
func (w *world) start(c *Change) { c.Run = RunRunning }

// finish lets the runner of the action in flight come to its end.
func (w *world) finish(c *Change) {
	if c.Phase == PhaseRollingBack {
		c.Run = RunSucceeded
		if w.undoFails {
			c.Run = RunFailed
			c.Attempts++
			return
		}
		w.running = c.From
		c.OldKernel = c.Boots && w.kernel == c.To
		return
	}
	c.Run = RunSucceeded
	if !c.Boots {
		w.running = c.To
	}
	if how, bad := w.bad[c.To.Digest]; bad {
		c.Run = how
	}
}

func (w *world) verdict(r fleet.Ref) fleet.Verdict {
	if v, ok := w.probes[r.Digest]; ok {
		return v
	}
	return fleet.VerdictPass
}

// crash kills the agent, or the whole host: then runners are gone as well.
func (w *world) crash(host bool) {
	c := w.obs.Change
	if c == nil {
		return
	}
	c.Probes, c.Reached, c.Overdue, w.looked = "", false, false, 0
	if host && c.Boots && c.Phase != PhaseVerified {
		defer w.boot(c)
	}
	if host && c.Run == RunRunning {
		c.Run = RunLost
		if c.Phase == PhaseRollingBack {
			c.Attempts++
		}
	}
}

func snapshot(o Observed) Observed {
	o.Refused = maps.Clone(o.Refused)
	if o.Change != nil {
		c := *o.Change
		o.Change = &c
	}
	return o
}
