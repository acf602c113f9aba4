package reconcile

import (
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// consoleLook is how soon the console is looked at again while something waits for it:
	// a lid that was closed stops the timers of a longer wait, and wall time goes on.
	consoleLook = time.Minute
	// noticeStands is for how long after its end a notice still counts. Later, as when the
	// machine slept through it, the person is told anew.
	noticeStands = 10 * time.Minute
	// mostNotices is how many are given in vain; the last one stands, or whoever closes the
	// lid at each of them would put it off for ever.
	mostNotices = 10
	// leastPostponed is for how long something is put off at least.
	leastPostponed = time.Minute
)

// Console is what a signed policy owes to the person at the console before a generation
// is activated, and what is known there.
type Console struct {
	// Rules of the generation that is to be activated.
	Rules fleet.ConsolePolicy
	// Somebody is there, whose uid is UID; where that can't be told it is the one that was
	// told. Unused is for how long they have not used the screen; 0 where that can't be told.
	Somebody bool
	UID      uint32
	Unused   time.Duration
	// OnBattery says that the machine is certainly not on mains power.
	OnBattery bool
	// Doubt is what of that can't be told, and why, for people.
	Doubt string
	Waits Waits
}

// Waits is what happened since something first waited for the console, and until an
// activation begins. Newer generations go on with it: what is published each hour must
// neither tell the person each hour nor let them postpone for ever.
type Waits struct {
	// Since is when the first of them waited; zero for now.
	Since time.Time `json:"since"`
	// Told is when the person was told that it is about to begin, zero for not; UID is
	// theirs, and Notices how often that was.
	Told    time.Time `json:"told,omitzero"`
	UID     uint32    `json:"told_uid,omitempty"`
	Notices uint32    `json:"notices,omitempty"`
	// Times is how often it was put off; At is when for the last time, For how long, and By
	// whom.
	Times uint32         `json:"postponed,omitempty"`
	At    time.Time      `json:"postponed_at,omitzero"`
	For   fleet.Duration `json:"postponed_for,omitempty"`
	By    string         `json:"postponed_by,omitempty"`
}

// WaitsForConsole says whether a plan is to wait for the person at the console, for power
// or for an idle screen, or to tell somebody.
func WaitsForConsole(p Plan) bool {
	switch p.Reason.Code { //nolint:exhaustive // Codes are open.
	case fleet.ReasonConsoleNotice, fleet.ReasonPostponed, fleet.ReasonOnBattery, fleet.ReasonInUse:
		return true
	}
	return false
}

// console decides whether what lies ready is to wait for the console. What is under way
// does not come here, nor does a way back.
func console(now time.Time, target fleet.Ref, c *Console) (plan Plan, waits bool) {
	if c == nil {
		return Plan{}, false
	}
	hold := func(until, look time.Time, code fleet.ReasonCode, hint, format string, args ...any) (Plan, bool) {
		if soon := now.Add(consoleLook); look.After(soon) {
			look = soon
		}
		if look.After(until) {
			look = until
		}
		message := fmt.Sprintf("generation %s ", target.Number) + fmt.Sprintf(format, args...)
		if c.Doubt != "" {
			message += "; " + c.Doubt
		}
		return Plan{Step: StepHold, Target: target, Until: look, Reason: fleet.Reason{Code: code, Message: message, Hint: hint}}, true
	}
	if until := c.putOffUntil(now); now.Before(until) {
		return hold(until, until, fleet.ReasonPostponed, nowHint,
			"was put off by %s until %s (%d of %d times)", c.Waits.By, clock(until), c.Waits.Times, c.Rules.Postpone)
	}
	if end := c.since(now).Add(c.Rules.AtMost.Or(fleet.DefaultConsoleAtMost)); now.Before(end) {
		if c.Rules.Power == fleet.PowerAC && c.OnBattery {
			return hold(end, end, fleet.ReasonOnBattery, "connect the machine to its power supply; or "+nowHint,
				"waits for mains power, until %s at most", clock(end))
		}
		if idle := time.Duration(c.Rules.Idle); c.Somebody && c.Unused < idle {
			return hold(end, now.Add(idle-c.Unused), fleet.ReasonInUse, "leave the screen alone; or "+nowHint,
				"waits until nobody has used the screen for %s, until %s at most", idle, clock(end))
		}
	}
	notice := time.Duration(c.Rules.Notice)
	if notice == 0 || !c.Somebody {
		return Plan{}, false
	}
	begins := c.Waits.Told.Add(notice)
	slept, another := now.After(begins.Add(noticeStands)), c.UID != c.Waits.UID
	switch {
	case c.Waits.Told.IsZero() || c.Waits.Told.After(now) || (slept || another) && c.Waits.Notices < mostNotices:
		return Plan{Step: StepTell, Target: target, Reason: fleet.Reason{
			Code: fleet.ReasonConsoleNotice, Message: fmt.Sprintf("the person at the console is told of generation %s", target.Number),
		}}, true
	case now.Before(begins):
		hint := nowHint
		if left := c.Left(); left > 0 {
			hint = fmt.Sprintf("the person at the console may put it off with fleet-agent postpone (%d more); %s", left, nowHint)
		}
		return hold(begins, begins, fleet.ReasonConsoleNotice, hint, "begins at %s: the person at the console was told", clock(begins))
	}
	return Plan{}, false
}

// nowHint is how root begins at once.
const nowHint = "fleet-agent retry, as root, begins at once"

// Waiting is what is to be remembered as long as it waits.
func (c *Console) Waiting(now time.Time) Waits {
	w := c.Waits
	w.Since = c.since(now)
	return w
}

// Tell is what is to be remembered once the person was told.
func (c *Console) Tell(now time.Time) Waits {
	w := c.Waiting(now)
	w.Told, w.UID = now, c.UID
	w.Notices++
	return w
}

func (c *Console) since(now time.Time) time.Time {
	if c.Waits.Since.IsZero() || c.Waits.Since.After(now) {
		return now // The second is a clock that was set back: never longer than from now.
	}
	return c.Waits.Since
}

// putOffUntil is until when it is put off, by the rules of what is to be activated: one
// whose policy allows less ends what was put off under another. Zero for not.
func (c *Console) putOffUntil(now time.Time) time.Time {
	w := c.Waits
	if w.Times == 0 || w.Times > c.Rules.Postpone || w.At.After(now) {
		return time.Time{}
	}
	return w.At.Add(min(time.Duration(w.For), c.Rules.PostponeFor.Or(fleet.DefaultPostponeFor)))
}

// Left is how many more times it may be put off.
func (c *Console) Left() uint32 { return c.Rules.Postpone - min(c.Waits.Times, c.Rules.Postpone) }

// Postpone puts off what waits for the console, for as long as is asked, 0 for as long as
// the policy lets. It returns what is to be remembered, and until when; or why not, which
// is empty where it may be.
func (c *Console) Postpone(now time.Time, ask time.Duration, by string) (w Waits, until time.Time, why string) {
	most := c.Rules.PostponeFor.Or(fleet.DefaultPostponeFor)
	if ask == 0 {
		ask = most
	}
	w = c.Waits
	switch {
	case c.Rules.Postpone == 0:
		return w, until, "the policy of this generation lets nobody put it off"
	case c.Left() == 0:
		return w, until, fmt.Sprintf("it was put off %d times, and the policy allows no more", w.Times)
	case ask > most:
		return w, until, fmt.Sprintf("the policy lets it be put off for %s at a time, not for %s", most, ask)
	case ask < min(leastPostponed, most):
		return w, until, fmt.Sprintf("putting it off for %s would put off nothing: ask for a minute at least", ask)
	}
	until = now.Add(ask)
	if is := c.putOffUntil(now); !until.After(is) {
		return w, is, "it is put off until " + clock(is) + " already"
	}
	w = c.Waiting(now)
	w.Times++
	w.At, w.For, w.By = now, fleet.Duration(ask), by
	w.Told = time.Time{} // Before it begins then, they are told again.
	return w, until, ""
}

// clock is a moment for people, wherever they are.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
