package fleet

import (
	"slices"
	"time"
)

// Limits on what a policy may ask of the person at the console, and what counts where
// it says nothing. A person may put an activation off for MaxConsolePostpone times
// MaxPostponeFor, a month, and so for far less than a generation's expiry.
const (
	MaxConsoleNotice   = 24 * time.Hour
	MaxConsolePostpone = 10
	MaxPostponeFor     = 3 * 24 * time.Hour
	// DefaultPostponeFor is longer than what somebody is in the midst of, and shorter than
	// a working day.
	DefaultPostponeFor = 4 * time.Hour
	MaxConsoleIdle     = 24 * time.Hour
	MaxConsoleAtMost   = 30 * 24 * time.Hour
	// DefaultConsoleAtMost has a weekend in it, and a few evenings at a socket on the wall:
	// whoever works all day on battery and lets the screen go dark by closing the lid is
	// current within a week.
	DefaultConsoleAtMost = 7 * 24 * time.Hour
)

// CriticalConsole is what a generation with a console policy lists as critical, so that
// an agent that does not know the rule holds, rather than disturb somebody untold.
const CriticalConsole = "policy.console"

// ConsolePolicy is what is owed to the person at a machine's screen and keyboard before
// an activation, and the reboot that may come of it, begins. Rollbacks, what is under
// way, and what root asks for on the host never wait for it. The zero value asks for
// nothing.
type ConsolePolicy struct {
	// Notice is how long before that the person is told. Where nobody is at the console
	// nobody needs to be. At most MaxConsoleNotice.
	Notice Duration `json:"notice,omitempty"`
	// Postpone is how many times they may put it off, all generations together that come
	// until one begins: at most MaxConsolePostpone. It needs a notice.
	Postpone uint32 `json:"postpone,omitempty"`
	// PostponeFor is for how long each time at most; default DefaultPostponeFor, at most
	// MaxPostponeFor.
	PostponeFor Duration `json:"postpone_for,omitempty"`
	// Power says on what power it may begin; default any.
	Power PowerPolicy `json:"power,omitempty"`
	// Idle has it begin only when nobody has used the screen for so long, or nobody is
	// there. At most MaxConsoleIdle.
	Idle Duration `json:"idle,omitempty"`
	// AtMost is how long Power and Idle hold, counted from when something first waited for
	// either; default DefaultConsoleAtMost, at most MaxConsoleAtMost.
	AtMost Duration `json:"at_most,omitempty"`
}

// PowerPolicy says on what power an activation may begin.
type PowerPolicy string

// The kinds of power.
const (
	// PowerAny is any.
	PowerAny PowerPolicy = "any"
	// PowerAC is mains, which a machine without a battery is always on.
	PowerAC PowerPolicy = "ac"
)

// IsZero says whether nothing is asked for.
func (c ConsolePolicy) IsZero() bool { return c == ConsolePolicy{} }

// Validate checks the limits, and that what belongs together is there.
func (c ConsolePolicy) Validate() error {
	for _, d := range []struct {
		name string
		is   Duration
		most time.Duration
	}{
		{"notice", c.Notice, MaxConsoleNotice},
		{"postpone_for", c.PostponeFor, MaxPostponeFor},
		{"idle", c.Idle, MaxConsoleIdle},
		{"at_most", c.AtMost, MaxConsoleAtMost},
	} {
		if d.is < 0 || time.Duration(d.is) > d.most {
			return invalid("policy console %s %s: at most %s", d.name, time.Duration(d.is), d.most)
		}
	}
	switch c.Power {
	case "", PowerAny, PowerAC:
	default:
		return invalid("policy console power %q: use any or ac", clip(string(c.Power)))
	}
	switch {
	case c.Postpone > MaxConsolePostpone:
		return invalid("policy console postpone %d: at most %d", c.Postpone, MaxConsolePostpone)
	case c.Postpone > 0 && c.Notice == 0:
		return invalid("policy console has postpone and no notice: nobody would know what to put off")
	case c.PostponeFor > 0 && c.Postpone == 0:
		return invalid("policy console has postpone_for and no postpone")
	case c.AtMost > 0 && c.Power != PowerAC && c.Idle == 0:
		return invalid("policy console has at_most, and neither power ac nor idle, which it bounds")
	}
	return nil
}

// validateConsole wants an agent that does not know the rule to hold.
func (g *Generation) validateConsole() error {
	if !g.Policy.Console.IsZero() && !slices.Contains(g.Critical, CriticalConsole) {
		return invalid("it has a console policy and does not list %q as critical", CriticalConsole)
	}
	return nil
}
