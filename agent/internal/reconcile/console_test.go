package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// checkConsole holds what must be true of plans where somebody may be at the console, and
// remembers what an agent does.
func (w *world) checkConsole(t *rapid.T, p Plan) {
	c := w.console
	if c == nil {
		if WaitsForConsole(p) {
			t.Fatalf("waits for a console that nobody asked for: %+v", p)
		}
		return
	}
	if WaitsForConsole(p) {
		if w.obs.Change != nil && w.obs.Change.Phase != PhaseVerifying && p.Step != StepWithdraw {
			t.Fatalf("waits for the console in the midst of %+v", w.obs.Change)
		}
		c.Waits = c.Waiting(w.now)
	}
	if p.Step != StepStart || w.obs.Change.Phase != PhaseActivating {
		return
	}
	if told := c.Waits.Told; c.Rules.Notice > 0 && c.Somebody && (told.IsZero() || w.now.Before(told.Add(time.Duration(c.Rules.Notice)))) && !w.desired.Revert {
		t.Fatalf("begins at %s, and the person was told at %s: %v", w.now, told, w.log)
	}
	c.Waits = Waits{}
}

func anyRules(t *rapid.T) (r fleet.ConsolePolicy) {
	span := func(label string, most time.Duration) fleet.Duration {
		return fleet.Duration(rapid.SampledFrom([]time.Duration{0, time.Minute, 10 * time.Minute, most}).Draw(t, label))
	}
	r.Notice = span("notice", fleet.MaxConsoleNotice)
	r.Idle = span("idle", fleet.MaxConsoleIdle)
	r.Power = rapid.SampledFrom([]fleet.PowerPolicy{"", fleet.PowerAC}).Draw(t, "power")
	if r.Notice > 0 {
		r.Postpone = rapid.Uint32Range(0, fleet.MaxConsolePostpone).Draw(t, "postpone")
	}
	if r.Postpone > 0 {
		r.PostponeFor = span("for", fleet.MaxPostponeFor)
	}
	if r.Idle > 0 || r.Power != "" {
		r.AtMost = span("at most", fleet.MaxConsoleAtMost)
	}
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	return r
}

func anyConsole(t *rapid.T, now time.Time) *Console {
	if rapid.Bool().Draw(t, "no console") {
		return nil
	}
	at := func(label string) time.Time {
		d := rapid.SampledFrom([]time.Duration{-1, 0, time.Minute, -time.Minute, -11 * time.Minute, -5 * time.Hour, -40 * 24 * time.Hour, time.Hour}).Draw(t, label)
		if d == -1 {
			return time.Time{}
		}
		return now.Add(d)
	}
	return &Console{
		Rules: anyRules(t), Somebody: rapid.Bool().Draw(t, "somebody"), OnBattery: rapid.Bool().Draw(t, "battery"),
		Unused: rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour}).Draw(t, "unused"),
		Waits: Waits{
			Since: at("since"), Told: at("told"), Notices: rapid.Uint32Range(0, mostNotices+1).Draw(t, "notices"),
			Times: rapid.Uint32Range(0, 12).Draw(t, "times"), At: at("put off"), For: fleet.Duration(rapid.SampledFrom([]time.Duration{0, time.Hour, 90 * time.Hour}).Draw(t, "put off for")),
		},
	}
}

// TestConsoleNeverHoldsForEver: somebody works on battery all the time, postpones as often
// as they may, and something newer comes whenever it likes: one of them begins within what
// the policy allows, and the person was told before.
func TestConsoleNeverHoldsForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		rules := anyRules(t)
		w.console = &Console{Rules: rules, Somebody: true, OnBattery: true}
		r, n := ref(1), uint64(1)
		w.desired = Desired{Target: &r}
		start := w.now
		// Whoever sits down is told as well.
		within := rules.PostponeFor.Or(fleet.DefaultPostponeFor)*time.Duration(rules.Postpone) + time.Duration(rules.Notice)*time.Duration(rules.Postpone+mostNotices+1)
		if rules.Idle > 0 || rules.Power != "" {
			within += rules.AtMost.Or(fleet.DefaultConsoleAtMost)
		}
		for steps := 0; w.obs.Change == nil || w.obs.Change.Run == RunNone; steps++ {
			if steps > 200_000 {
				t.Fatalf("does not begin: %v", w.log[len(w.log)-12:])
			}
			switch rapid.SampledFrom([]string{"", "", "", "", "", "", "postpone", "publish", "leaves", "sits down", "plugs in", "crash"}).Draw(t, "meanwhile") {
			case "postpone":
				postpone(t, w, rules)
			case "publish":
				if w.obs.Change == nil && n < 20 {
					n++
					r = ref(n)
					w.desired = Desired{Target: &r}
				}
			case "leaves": // for a moment
				w.console.Somebody = !w.console.Somebody
			case "sits down":
				w.console.UID = rapid.Uint32Range(0, 2).Draw(t, "who")
			case "plugs in":
				w.console.OnBattery = !w.console.OnBattery
			case "crash":
				w.crash(false)
			}
			w.step(t)
		}
		if took := w.now.Sub(start); took > within {
			t.Fatalf("began after %s, %+v allow %s: %v", took, rules, within, w.log[max(0, len(w.log)-12):])
		}
		settle(t, w, 0)
		atRest(t, w)
	})
}

// postpone is a person's word, as the agent takes it.
func postpone(t *rapid.T, w *world, rules fleet.ConsolePolicy) {
	w.obs.Console = w.console
	plan, _ := Decide(w.now, w.desired, w.obs, w.policy)
	if plan.Step == StepWithdraw || !WaitsForConsole(plan) {
		return
	}
	ask := rapid.SampledFrom([]time.Duration{0, time.Minute, rules.PostponeFor.Or(fleet.DefaultPostponeFor), 100 * time.Hour}).Draw(t, "for")
	before := w.console.Waits
	waits, until, why := w.console.Postpone(w.now, ask, "somebody")
	if why != "" {
		if waits != before {
			t.Fatalf("refused (%s), and it counts: %+v", why, waits)
		}
		return
	}
	if waits.Times != before.Times+1 || waits.Times > rules.Postpone || !until.After(w.now) {
		t.Fatalf("put off until %s: %+v, then %+v", until, before, waits)
	}
	w.console.Waits = waits
}

// TestConsoleStubborn: who never stops, never plugs in and postpones whenever they may has
// it put off for as long as the policy allows, and no longer, while something newer is
// published each hour.
func TestConsoleStubborn(t *testing.T) {
	hour := fleet.Duration(time.Hour)
	for _, rules := range []fleet.ConsolePolicy{
		{Notice: hour / 6, Postpone: 3},
		{Notice: hour / 6, Postpone: 3, Power: fleet.PowerAC, AtMost: 24 * hour},
		{Notice: hour, Idle: hour / 4},
		{Notice: 24 * hour, Postpone: fleet.MaxConsolePostpone, PostponeFor: 72 * hour, Power: fleet.PowerAC, Idle: hour, AtMost: 30 * 24 * hour},
	} {
		now := time.Unix(1_800_000_000, 0)
		start, n := now, uint64(1)
		c := &Console{Rules: rules, Somebody: true, OnBattery: true}
		o := Observed{Adopted: true, Current: ref(0), Highest: ref(1), Staged: ref(1).Digest, Console: c}
		told, off := 0, 0
		for r := ref(1); ; {
			plan, _ := Decide(now, Desired{Target: &r}, o, Policy{Mode: fleet.ModeManage})
			if plan.Step == StepActivate {
				break
			}
			if !WaitsForConsole(plan) {
				t.Fatalf("%+v: %+v", rules, plan)
			}
			c.Waits = c.Waiting(now)
			if plan.Step == StepTell {
				c.Waits = c.Tell(now)
				told++
				continue
			}
			// At the last moment that there is.
			if plan.Until.Add(consoleLook).After(now) && plan.Reason.Code != fleet.ReasonPostponed {
				if w, _, why := c.Postpone(now, 0, "me"); why == "" {
					c.Waits = w
					off++
					continue
				}
			}
			now = plan.Until
			if now.Sub(start) > time.Duration(n)*time.Hour {
				n++
				r = ref(n)
				o.Highest, o.Staged = r, r.Digest
			}
		}
		most := time.Duration(rules.Postpone)*rules.PostponeFor.Or(fleet.DefaultPostponeFor) + time.Duration(rules.Notice)*time.Duration(rules.Postpone+2)
		least := time.Duration(rules.Postpone) * rules.PostponeFor.Or(fleet.DefaultPostponeFor)
		if rules.Power != "" || rules.Idle > 0 {
			most += rules.AtMost.Or(fleet.DefaultConsoleAtMost)
			least = max(least, rules.AtMost.Or(fleet.DefaultConsoleAtMost))
		}
		if took := now.Sub(start); took > most || took < least || off != int(rules.Postpone) || told == 0 || told > off+mostNotices {
			t.Errorf("%+v: began after %s, told %d times, put off %d times; want %s to %s", rules, took, told, off, least, most)
		}
	}
}

// TestConsoleSleeper: who closes the lid at each notice is told a bounded number of times.
func TestConsoleSleeper(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := ref(2)
	c := &Console{Rules: fleet.ConsolePolicy{Notice: fleet.Duration(time.Minute)}, Somebody: true}
	for range mostNotices {
		plan, waits := console(now, r, c)
		if !waits || plan.Step != StepTell {
			t.Fatalf("%+v after %+v", plan, c.Waits)
		}
		c.Waits = c.Tell(now)
		if plan, _ := console(now, r, c); plan.Step != StepHold {
			t.Fatalf("then %+v", plan)
		}
		now = now.Add(8 * time.Hour)
	}
	if plan, waits := console(now, r, c); waits {
		t.Errorf("told %d times, and %+v", mostNotices, plan)
	}
}

// TestConsoleLeavesTheRest: what began, what goes back, what is not ready and what nobody
// may activate are decided upon as if nobody were at the console.
func TestConsoleLeavesTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := anyObserved(t)
		now := time.Unix(1_800_000_000, 0)
		d := Desired{Revert: rapid.Bool().Draw(t, "revert")}
		if rapid.Bool().Draw(t, "desired") {
			r := ref(rapid.Uint64Range(1, 5).Draw(t, "target"))
			d.Target = &r
		}
		if rapid.Bool().Draw(t, "back") {
			o.RollBackAsked = fleet.Reason{Code: fleet.ReasonOperatorRefused}
		}
		p := Policy{Mode: rapid.SampledFrom([]fleet.Mode{fleet.ModeManage, fleet.ModeObserve}).Draw(t, "mode")}
		without, _ := Decide(now, d, o, p)
		o.Console = anyConsole(t, now)
		with, _ := Decide(now, d, o, p)
		if without == with {
			return
		}
		if without.Step == StepStart && o.Change.Phase == PhaseActivating && o.Change.Run == RunNone && with.Step == StepWithdraw && WaitsForConsole(with) {
			return // An intent that never began waits like what lies ready.
		}
		if without.Step != StepActivate || d.Revert || !WaitsForConsole(with) || with.Target != without.Target {
			t.Fatalf("%+v, and with %+v: %+v", without, o.Console, with)
		}
	})
}

func TestConsole(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	rules := fleet.ConsolePolicy{
		Notice: fleet.Duration(10 * time.Minute), Postpone: 2, PostponeFor: fleet.Duration(4 * time.Hour),
		Power: fleet.PowerAC, Idle: fleet.Duration(15 * time.Minute),
	}
	idle := func(c Console) Console {
		c.Rules, c.Somebody = rules, true
		if c.Unused == 0 {
			c.Unused = time.Hour
		}
		return c
	}
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, x := range map[string]struct {
		c     Console
		step  Step // empty: it begins
		code  fleet.ReasonCode
		look  time.Duration
		words string
	}{
		"nobody is there":             {Console{Rules: rules}, "", "", 0, ""},
		"nobody, and on battery":      {Console{Rules: rules, OnBattery: true}, StepHold, fleet.ReasonOnBattery, time.Minute, "until 2027-01-22 08:00 UTC at most"},
		"a week on battery":           {Console{Rules: rules, OnBattery: true, Waits: Waits{Since: ago(7 * 24 * time.Hour)}}, "", "", 0, ""},
		"is used":                     {Console{Rules: rules, Somebody: true, Unused: 14*time.Minute + 50*time.Second}, StepHold, fleet.ReasonInUse, 10 * time.Second, "for 15m0s"},
		"is used for a week":          {Console{Rules: rules, Somebody: true, Waits: Waits{Since: ago(7 * 24 * time.Hour)}}, StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"is told first":               {idle(Console{}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"has ten minutes":             {idle(Console{Waits: Waits{Told: now}}), StepHold, fleet.ReasonConsoleNotice, time.Minute, "begins at 2027-01-15 08:10 UTC"},
		"the last of them":            {idle(Console{Waits: Waits{Told: ago(10*time.Minute - time.Second)}}), StepHold, fleet.ReasonConsoleNotice, time.Second, ""},
		"and no more":                 {idle(Console{Waits: Waits{Told: ago(10 * time.Minute)}}), "", "", 0, ""},
		"slept through it":            {idle(Console{Waits: Waits{Told: ago(8 * time.Hour)}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"another one is there now":    {idle(Console{UID: 1001, Waits: Waits{Told: now, UID: 1000, Notices: 1}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"they take turns":             {idle(Console{UID: 1001, Waits: Waits{Told: ago(10 * time.Minute), UID: 1000, Notices: mostNotices}}), "", "", 0, ""},
		"told in the future":          {idle(Console{Waits: Waits{Told: now.Add(time.Hour)}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"unplugged since":             {idle(Console{OnBattery: true, Waits: Waits{Told: ago(10 * time.Minute)}}), StepHold, fleet.ReasonOnBattery, time.Minute, ""},
		"put off":                     {idle(Console{OnBattery: true, Waits: Waits{Times: 1, At: ago(time.Hour), For: fleet.Duration(2 * time.Hour), By: "uid 1000"}}), StepHold, fleet.ReasonPostponed, time.Minute, "by uid 1000 until 2027-01-15 09:00 UTC (1 of 2 times)"},
		"put off, and that is over":   {idle(Console{Waits: Waits{Times: 1, At: ago(2 * time.Hour), For: fleet.Duration(2 * time.Hour)}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"put off by a longer rule":    {idle(Console{Waits: Waits{Times: 1, At: ago(5 * time.Hour), For: fleet.Duration(20 * time.Hour)}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"put off more often than now": {idle(Console{Waits: Waits{Times: 3, At: now, For: fleet.Duration(time.Hour)}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"put off in the future":       {idle(Console{Waits: Waits{Times: 1, At: now.Add(time.Hour), For: fleet.Duration(time.Hour)}}), StepTell, fleet.ReasonConsoleNotice, 0, ""},
		"can't be told":               {Console{Rules: rules, Somebody: true, Doubt: "logind does not answer"}, StepHold, fleet.ReasonInUse, time.Minute, "; logind does not answer"},
	} {
		plan, waits := console(now, ref(2), &x.c)
		if waits != (x.step != "") || plan.Step != x.step || plan.Reason.Code != x.code || !strings.Contains(plan.Reason.Message, x.words) {
			t.Errorf("%s: %+v", name, plan)
		}
		if x.step == StepHold && plan.Until.Sub(now) != x.look {
			t.Errorf("%s: looks again after %s, want %s", name, plan.Until.Sub(now), x.look)
		}
	}
}

func TestPostpone(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	rules := fleet.ConsolePolicy{Notice: fleet.Duration(time.Minute), Postpone: 2}
	for name, x := range map[string]struct {
		rules fleet.ConsolePolicy
		waits Waits
		ask   time.Duration
		until time.Duration
		why   string
	}{
		"as long as may be":  {rules, Waits{}, 0, 4 * time.Hour, ""},
		"for an hour":        {rules, Waits{Times: 1, At: now.Add(-9 * time.Hour), For: fleet.Duration(time.Hour)}, time.Hour, time.Hour, ""},
		"longer than may be": {rules, Waits{}, 5 * time.Hour, 0, "4h0m0s at a time, not for 5h0m0s"},
		"for nothing":        {rules, Waits{}, time.Second, 0, "a minute at least"},
		"backwards":          {rules, Waits{}, -time.Hour, 0, "a minute at least"},
		"too often":          {rules, Waits{Times: 2}, 0, 0, "put off 2 times, and the policy allows no more"},
		"never":              {fleet.ConsolePolicy{Notice: rules.Notice}, Waits{}, 0, 0, "lets nobody"},
		"shorter than it is": {rules, Waits{Times: 1, At: now, For: fleet.Duration(3 * time.Hour)}, time.Hour, 3 * time.Hour, "is put off until 2027-01-15 11:00 UTC already"},
	} {
		c := Console{Rules: x.rules, Somebody: true, Waits: x.waits}
		w, until, why := c.Postpone(now, x.ask, "uid 1000")
		if x.why != "" {
			if !strings.Contains(why, x.why) || w != x.waits {
				t.Errorf("%s: %q, %+v", name, why, w)
			}
			continue
		}
		want := Waits{Since: now, Times: x.waits.Times + 1, At: now, For: fleet.Duration(x.until), By: "uid 1000"}
		if why != "" || until != now.Add(x.until) || w != want {
			t.Errorf("%s: until %s, %q, %s", name, until, why, fmt.Sprintf("%+v, want %+v", w, want))
		}
	}
}
