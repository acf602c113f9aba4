package fleetctl

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func showFleet(p *ui.Printer, machines []machineStatus, now time.Time) {
	var rows [][]string
	count := map[string]int{}
	for i := range machines {
		m := &machines[i]
		seen := ui.Ago(now, m.lastSeen())
		if m.Connected {
			seen = "connected"
		}
		profiles := m.Profiles
		if len(profiles) == 0 {
			profiles = []profileStatus{{Profile: string(fleet.System)}}
		}
		for j, q := range profiles {
			state, why, tone := m.state(&q)
			if j == 0 {
				count[state]++
			}
			row := []string{
				m.Machine, m.Class, dash(m.ownTags()), dash(m.Mode),
				dash(q.Desired.Number), dash(q.Confirmed.Number), p.Paint(tone, state), why, p.Paint(seenTone(m, now), seen),
			}
			if j > 0 {
				row[0], row[1], row[2], row[3], row[8] = "", "", "", "", ""
			}
			// The system is what a machine is, where it has no more than that.
			if len(profiles) > 1 || q.Profile != string(fleet.System) {
				row[0] += "  " + q.Profile
			}
			rows = append(rows, row)
		}
	}
	p.Table([]string{"MACHINE", "CLASS", "TAGS", "MODE", "DESIRED", "CONFIRMED", "STATE", "REASON", "LAST SEEN"}, rows)
	var parts []string
	for state, n := range count {
		parts = append(parts, fmt.Sprintf("%d %s", n, state))
	}
	slices.Sort(parts)
	p.Printf("%s: %s\n", plural(len(machines), "machine"), strings.Join(parts, ", "))
}

// ownTags are the tags that say something: every machine has "all" and its
// class.
func (m *machineStatus) ownTags() string {
	return strings.Join(slices.DeleteFunc(slices.Clone(m.Tags), func(t string) bool { return t == "all" || t == m.Class }), ",")
}

// state is what to say of a profile at a glance.
func (m *machineStatus) state(q *profileStatus) (state, why string, tone ui.Tone) {
	switch {
	case m.Banned != "":
		return "banned", clipText(m.Banned), ui.ToneBad
	case m.Disabled:
		return "disabled", "the inventory says so", ui.ToneDim
	case q.State == stateWaiting:
		return q.State, dash(clipText(q.Reason.Message)), ui.ToneWarn
	case !m.Known:
		return "unknown", "the coordinator does not know it yet: publish", ui.ToneWarn
	case !m.InInventory:
		return "stray", "it is not in the inventory", ui.ToneWarn
	case !m.Enrolled:
		return "not enrolled", "fleetctl token " + m.Machine, ui.ToneWarn
	case q.State == "":
		return "enrolled", "it has not reported yet", ui.ToneBusy
	}
	why = q.Reason.Message
	if why == "" {
		why = string(q.Reason.Code)
	}
	return q.State, dash(clipText(why)), stateTone(fleet.State(q.State))
}

func stateTone(s fleet.State) ui.Tone {
	switch s {
	case fleet.StateVerified, fleet.StateConfirmed:
		return ui.ToneGood
	case fleet.StateFetching, fleet.StateBuilding, fleet.StateStaged, fleet.StateActivating, fleet.StateVerifying:
		return ui.ToneBusy
	case fleet.StateHeld, fleet.StateRollingBack:
		return ui.ToneWarn
	case fleet.StateRolledBack, fleet.StateFailed:
		return ui.ToneBad
	case fleet.StateIdle:
		return ui.ToneDim
	}
	return ui.ToneNone
}

// seenTone marks machines that have been silent for long.
func seenTone(m *machineStatus, now time.Time) ui.Tone {
	switch {
	case m.Connected || m.Disabled || m.LastSeen == nil:
		return ui.ToneNone
	case now.Sub(*m.LastSeen) > 24*time.Hour:
		return ui.ToneWarn
	}
	return ui.ToneDim
}

// clipText keeps a table's column narrow.
func clipText(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

func showMachine(p *ui.Printer, m *machineStatus, now time.Time) {
	line := func(name, value string) {
		if value != "" {
			p.Printf("%-12s %s\n", name, value)
		}
	}
	line("machine", m.Machine)
	line("class", m.Class)
	line("tags", strings.Join(m.Tags, ", "))
	line("mode", m.Mode)
	if m.Disabled {
		line("disabled", "yes")
	}
	if m.Banned != "" {
		line("banned", p.Paint(ui.ToneBad, m.Banned))
	}
	switch {
	case m.recorded && !m.Enrolled:
		line("enrolled", "before; the coordinator lost its store since")
	case !m.Known:
		line("enrolled", "the coordinator does not know it yet: publish")
	case !m.Enrolled:
		line("enrolled", "no: fleetctl token "+m.Machine)
	case m.IdentityExpires != nil:
		line("identity", "until "+m.IdentityExpires.Format("2006-01-02 15:04:05 UTC"))
	}
	seen := ui.Ago(now, m.lastSeen())
	if m.Connected {
		seen += ", connected"
	}
	line("last seen", seen)
	line("agent", m.AgentVersion)
	for i := range m.Profiles {
		q := &m.Profiles[i]
		state, _, tone := m.state(q)
		p.Printf("\n")
		line("profile", q.Profile)
		line("state", p.Paint(tone, state))
		why := q.Reason.Message
		if q.Reason.Code != "" {
			why = strings.TrimSpace(fmt.Sprintf("%s (%s)", why, q.Reason.Code))
		}
		hint := q.Reason.Hint
		if m.Banned != "" { // What it said last is not why it is where it is.
			why, hint = m.Banned, "fleetctl ban "+m.Machine+" --lift --reason TEXT, if that is over"
		}
		line("reason", why)
		line("next", hint)
		line("desired", refText(q.Desired))
		if q.Source != nil {
			line("source", sourceText(*q.Source))
		}
		line("current", refText(q.Current))
		line("confirmed", refText(q.Confirmed))
		line("last good", refText(q.LastGood))
		line("highest", refText(q.Highest))
		for _, r := range q.Refused {
			line("refused", refText(r))
		}
	}
}

func refText(r client.Ref) string {
	if r.Number == "" {
		return ""
	}
	return strings.TrimSpace(fmt.Sprintf("%-8s %s  %s", r.Number, fleet.Digest(r.Digest).Short(), r.Release))
}
