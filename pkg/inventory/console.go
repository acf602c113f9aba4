package inventory

import (
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// console reads policy.console. What needs something else of it is judged once all
// scopes are merged.
func (d *settingsDecoder) console(n *node, c *fleet.ConsolePolicy) {
	span := func(to *fleet.Duration, name string, most time.Duration) func(*node) {
		return func(n *node) { *to = fleet.Duration(d.duration(n, "policy.console."+name, most)) }
	}
	d.fields(n, "policy.console", map[string]func(*node){
		"notice": span(&c.Notice, "notice", fleet.MaxConsoleNotice),
		"postpone": func(n *node) {
			c.Postpone = uint32(d.whole(n, "policy.console.postpone", 0, fleet.MaxConsolePostpone)) //nolint:gosec // In that range.
		},
		"postponeFor": span(&c.PostponeFor, "postponeFor", fleet.MaxPostponeFor),
		"power": func(n *node) {
			c.Power = enum(&d.decoder, n, "policy.console.power", fleet.PowerAny, fleet.PowerAC)
		},
		"idle":   span(&c.Idle, "idle", fleet.MaxConsoleIdle),
		"atMost": span(&c.AtMost, "atMost", fleet.MaxConsoleAtMost),
	})
	if !d.complete {
		return
	}
	absent := func(key string) bool { v := n.get(key); return v == nil || v.kind == kindNull }
	if c.Power == fleet.PowerAny {
		c.Power = "" // What counts without it, too: an agent that knows no console need not hold.
	}
	if c.Postpone > 0 && absent("notice") {
		d.invalid(n.at, "add notice: 10m, how long before it begins the person is told", "policy.console has postpone and no notice: nobody would know what to put off")
	}
	if c.Postpone == 0 {
		if c.PostponeFor > 0 && absent("postpone") {
			d.invalid(n.at, "add postpone: 3, how many times", "policy.console has postponeFor and no postpone")
		}
		c.PostponeFor = 0 // Of another scope, where this one permits none.
	}
	if c.Power == "" && c.Idle == 0 {
		if c.AtMost > 0 && absent("power") && absent("idle") {
			d.invalid(n.at, "add power: ac or idle: 15m, which it bounds", "policy.console has atMost, and neither power nor idle")
		}
		c.AtMost = 0 // As above.
	}
}

func consoleSchema() object {
	return fields("What is owed to the person at the machine's screen before an activation, and the reboot that may come of it, begins.", object{
		"notice":      setting(duration("How long before it begins the person is told, at most 1d; default they are not.")),
		"postpone":    setting(object{"type": "integer", "minimum": 0, "maximum": fleet.MaxConsolePostpone, "description": "How many times they may put it off until one begins; default 0. Needs notice."}),
		"postponeFor": setting(duration("For how long each time at most, at most 3d; default 4h.")),
		"power":       setting(choice("ac: it begins on mains power only; any (default).", fleet.PowerAny, fleet.PowerAC)),
		"idle":        setting(duration("It begins only when nobody has used the screen for so long, or nobody is there; at most 1d; default at any time.")),
		"atMost":      setting(duration("How long power and idle may hold it up, at most 30d; default 7d.")),
	})
}
