package fleetctl

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
)

const statusHelp = `Show where each machine is and why; with MACHINE, all that is known of it and
what to do next.

The generations in each host's signed report are compared with releases/. One that
this checkout does not know is an ALARM and ends with exit code 3: a stolen key
signed it, or this checkout is behind. So is an event log that lacks what you saw of
it, what another operator countersigned, or what a host was told; what you see is
countersigned, at most once an hour.

JSON: {"machines": [{machine, class, tags, mode, disabled, enrolled, banned,
connected, last_seen, agent_version, identity_expires, in_inventory, known,
profiles: [{profile, state, reason: {code, message, hint}, desired, current,
confirmed, last_good, highest: {number, digest, release}, refused: […]}]}],
digests: {releases, alarms: [{machine, profile, number, digest, release}],
unverified: [{machine, reason}], more}, log: {head: {seq, hash}, known,
lost: [{seq, hash, who}], unread, failed}}`

func newStatusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "status [MACHINE]",
		Short:             "Show where each machine is and why",
		Long:              statusHelp,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: o.completeMachines(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return runStatus(cmd.Context(), o, name)
		},
	}
}

// statusResult is the JSON form of status.
type statusResult struct {
	Machines []machineStatus `json:"machines"`
	Digests  *tripwire       `json:"digests"`
	Log      *logLook        `json:"log"`
}

type machineStatus struct {
	Machine  string   `json:"machine"`
	Class    string   `json:"class"`
	Tags     []string `json:"tags"`
	Mode     string   `json:"mode"`
	Disabled bool     `json:"disabled"`
	Enrolled bool     `json:"enrolled"`
	// Banned is why, empty where it is not banned.
	Banned          string          `json:"banned"`
	Connected       bool            `json:"connected"`
	LastSeen        *time.Time      `json:"last_seen"`
	AgentVersion    string          `json:"agent_version"`
	IdentityExpires *time.Time      `json:"identity_expires"`
	InInventory     bool            `json:"in_inventory"`
	Known           bool            `json:"known"` // to the coordinator
	Profiles        []profileStatus `json:"profiles"`
	// recorded says that the repository has the host's keys.
	recorded bool
}

type profileStatus struct {
	Profile   string       `json:"profile"`
	State     string       `json:"state"`
	Reason    reasonStatus `json:"reason"`
	Desired   client.Ref   `json:"desired"`
	Current   client.Ref   `json:"current"`
	Confirmed client.Ref   `json:"confirmed"`
	LastGood  client.Ref   `json:"last_good"`
	Highest   client.Ref   `json:"highest"`
	Refused   []client.Ref `json:"refused"`
	// Source of the desired generation and how much of it is pinned, where one
	// machine is asked for and the repository has the release.
	Source *fleet.Source `json:"source,omitempty"`
	Pinned pinning       `json:"pinned,omitempty"`
}

type reasonStatus struct {
	Code    fleet.ReasonCode `json:"code"`
	Message string           `json:"message"`
	Hint    string           `json:"hint"`
}

func runStatus(ctx context.Context, o *options, name string) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // Nothing is pending.
	machines := s.fleet.Machines()
	var unknown error
	if name != "" {
		if _, err := fleet.ParseMachineName(name); err != nil {
			return usageError{err}
		}
		m, err := s.machine(name)
		if machines, unknown = []inventory.Machine{m}, err; err != nil {
			machines = nil // A stray one, perhaps.
		}
	}
	wire, err := newTripwire(s.workspace)
	if err != nil {
		return err
	}
	hosts, err := s.HostsReported(ctx, fleet.MachineName(name), wire.check)
	// One that the coordinator does not know yet is shown as such.
	if err != nil && !errors.Is(err, client.ErrNotFound) {
		return err
	}
	if unknown != nil && len(hosts) == 0 {
		return unknown
	}
	look := o.lookAt(ctx, s, wire.echoed(), lookBounds{echoes: maxChecked, records: maxWalked, time: lookTimeouts * o.CallTimeout})
	res := statusResult{Machines: combine(machines, hosts), Digests: wire, Log: look}
	for i := range res.Machines {
		if err := res.Machines[i].judge(s.workspace); err != nil {
			return err
		}
	}
	if name != "" {
		if err := res.Machines[0].addSources(s.workspace); err != nil {
			return err
		}
	}
	p := o.printer()
	switch {
	case p.JSON():
		if err := p.Value(res); err != nil {
			return err
		}
	case name != "":
		showMachine(p, &res.Machines[0], o.Now())
	default:
		showFleet(p, res.Machines, o.Now())
	}
	if !p.JSON() {
		wire.show(p)
		look.show(p)
	}
	return errors.Join(wire.verdict(), look.verdict(), look.keep(ctx, o, s, o.Stderr))
}

// combine joins the inventory with what the coordinator knows, by name.
func combine(machines []inventory.Machine, hosts []client.Host) []machineStatus {
	byName := map[string]*machineStatus{}
	for _, m := range machines {
		byName[string(m.Name)] = &machineStatus{
			Machine: string(m.Name), Class: string(m.Class), Tags: append([]string{}, m.Tags...), Disabled: m.Disabled, InInventory: true,
			Profiles: []profileStatus{},
		}
	}
	for _, h := range hosts {
		m := byName[h.Machine]
		if m == nil {
			m = &machineStatus{Machine: h.Machine, Class: h.Class, Tags: append([]string{}, h.Tags...), Disabled: h.Disabled}
			byName[h.Machine] = m
		}
		m.Known, m.Mode, m.Enrolled, m.Banned, m.Connected = true, h.Mode, h.Enrolled, h.Banned, h.Connected
		m.LastSeen, m.AgentVersion, m.IdentityExpires = timeOrNil(h.LastSeen), h.AgentVersion, timeOrNil(h.IdentityExpires)
		m.Profiles = []profileStatus{}
		for _, q := range h.Profiles {
			m.Profiles = append(m.Profiles, profileStatus{
				Profile: q.Name, State: q.State, Reason: reasonStatus(q.Reason), Desired: q.Desired, Current: q.Current,
				Confirmed: q.Confirmed, LastGood: q.LastGood, Highest: q.Highest, Refused: append([]client.Ref{}, q.Refused...),
			})
		}
		slices.SortStableFunc(m.Profiles, systemFirst)
	}
	out := make([]machineStatus, 0, len(byName))
	for _, m := range byName {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b machineStatus) int { return strings.Compare(a.Machine, b.Machine) })
	return out
}

// systemFirst orders profiles: a machine is where its system is, and then come its homes.
func systemFirst(a, b profileStatus) int {
	if home := func(q profileStatus) bool { return q.Profile != string(fleet.System) }; home(a) != home(b) {
		if home(a) {
			return 1
		}
		return -1
	}
	return strings.Compare(a.Profile, b.Profile)
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (m *machineStatus) lastSeen() time.Time {
	if m.LastSeen == nil {
		return time.Time{}
	}
	return *m.LastSeen
}
