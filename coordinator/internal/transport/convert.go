package transport

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// maxTags bounds the tags of a machine.
const maxTags = 256

func refToProto(r fleet.Ref) *fleetv1.GenerationRef {
	if r.IsZero() {
		return nil
	}
	return &fleetv1.GenerationRef{Number: r.Number.String(), Digest: string(r.Digest), Release: string(r.Release)}
}

func refsToProto(refs []fleet.Ref) []*fleetv1.GenerationRef {
	out := make([]*fleetv1.GenerationRef, 0, len(refs))
	for _, r := range refs {
		out = append(out, refToProto(r))
	}
	return out
}

// timeToProto leaves an unknown time away.
func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func machineFromProto(m *fleetv1.Machine) (registry.Machine, error) {
	name, err := fleet.ParseMachineName(m.GetName())
	if err != nil {
		return registry.Machine{}, err
	}
	class, err := fleet.ParseClass(m.GetClass())
	if err != nil {
		return registry.Machine{}, fmt.Errorf("machine %s: %w", name, err)
	}
	if len(m.GetTags()) > maxTags {
		return registry.Machine{}, fmt.Errorf("machine %s: %w: %d tags, at most %d", name, fleet.ErrName, len(m.GetTags()), maxTags)
	}
	for _, t := range m.GetTags() {
		if t == "" || len(t) > maxTags {
			return registry.Machine{}, fmt.Errorf("machine %s: %w: empty tag, or one of %d bytes", name, fleet.ErrName, len(t))
		}
	}
	return registry.Machine{Name: name, Class: class, Tags: m.GetTags(), Disabled: m.GetDisabled()}, nil
}

func inventoryFromProto(req *fleetv1.ApplyInventoryRequest) ([]registry.Machine, []registry.Operator, error) {
	if len(req.GetMachines()) > kit.MaxMachines || len(req.GetOperators()) > kit.MaxOperators {
		return nil, nil, errors.New("more machines or operators than a fleet may have")
	}
	machines := make([]registry.Machine, 0, len(req.GetMachines()))
	seen := map[string]bool{}
	for _, p := range req.GetMachines() {
		m, err := machineFromProto(p)
		if err != nil {
			return nil, nil, err
		}
		if seen[p.GetName()] {
			return nil, nil, fmt.Errorf("machine %s is listed twice", m.Name)
		}
		seen[p.GetName()] = true
		machines = append(machines, m)
	}
	operators := make([]registry.Operator, 0, len(req.GetOperators()))
	clear(seen)
	for _, p := range req.GetOperators() {
		name, err := fleet.ParseOperatorName(p.GetName())
		if err != nil {
			return nil, nil, err
		}
		role, err := fleet.ParseRole(p.GetRole())
		if err != nil {
			return nil, nil, fmt.Errorf("operator %s: %w", name, err)
		}
		if seen[p.GetName()] {
			return nil, nil, fmt.Errorf("operator %s is listed twice", name)
		}
		seen[p.GetName()] = true
		o, err := recordOf(p, name, role)
		if err != nil {
			return nil, nil, err
		}
		operators = append(operators, o)
	}
	return machines, operators, nil
}

// recordedBan is a ban as the fleet's repository has it.
type recordedBan struct {
	machine fleet.MachineName
	reason  string
	time    time.Time
}

func bansFromProto(all []*fleetv1.RecordedBan) ([]recordedBan, error) {
	if len(all) > kit.MaxMachines {
		return nil, errors.New("more bans than a fleet may have machines")
	}
	bans := make([]recordedBan, 0, len(all))
	for _, b := range all {
		name, err := fleet.ParseMachineName(b.GetMachine())
		if err != nil {
			return nil, err
		}
		if b.GetReason() == "" || len(b.GetReason()) > maxText {
			return nil, fmt.Errorf("the reason of the ban of %s is missing or too long", name)
		}
		bans = append(bans, recordedBan{machine: name, reason: b.GetReason(), time: b.GetTime().AsTime()})
	}
	return bans, nil
}

// hostToProto tells of a host and of what is desired of it.
func hostToProto(h registry.Host, desired []publish.Desired, now time.Time) *fleetv1.Host {
	out := &fleetv1.Host{
		Machine: &fleetv1.Machine{Name: string(h.Name)}, Enrolled: h.Identity.Known(), Banned: h.Banned,
		Connected: h.Connected, LastSeen: timeToProto(h.LastSeen), Mode: string(h.Observed.Mode),
		AgentVersion: h.Hello.Version, IdentityExpires: timeToProto(h.Identity.Expires), IdentityCa: h.Identity.CA,
	}
	if h.Connected {
		out.LastSeen = timestamppb.New(now)
	}
	if out.AgentVersion == "" {
		out.AgentVersion = h.Observed.Version
	}
	if m := h.Machine; m != nil {
		out.Machine = &fleetv1.Machine{Name: string(m.Name), Class: string(m.Class), Tags: m.Tags, Disabled: m.Disabled}
	}
	told := map[fleet.ProfileName]bool{}
	for _, s := range h.Observed.Profiles {
		told[s.Profile] = true
		p := &fleetv1.ProfileStatus{
			Profile: string(s.Profile), State: string(s.State),
			Reason:  &fleetv1.Reason{Code: string(s.Reason.Code), Message: s.Reason.Message, Hint: s.Reason.Hint},
			Current: refToProto(s.Current), Confirmed: refToProto(s.Confirmed), LastGood: refToProto(s.LastGood),
			Highest: refToProto(s.Highest), Refused: refsToProto(s.Refused),
		}
		for _, d := range desired {
			if d.Newest.Profile == s.Profile {
				p.Desired = desiredRef(d)
			}
		}
		out.Profiles = append(out.Profiles, p)
	}
	for _, d := range desired {
		if !told[d.Newest.Profile] {
			out.Profiles = append(out.Profiles, &fleetv1.ProfileStatus{Profile: string(d.Newest.Profile), Desired: desiredRef(d)})
		}
	}
	return out
}

// desiredRef is what the host should run: where it is sent back to, if it is.
func desiredRef(d publish.Desired) *fleetv1.GenerationRef {
	if d.Revert != nil {
		return refToProto(d.Revert.Ref)
	}
	return refToProto(d.Newest.Ref)
}

func eventToProto(e audit.Event) *fleetv1.WatchEventsResponse {
	return &fleetv1.WatchEventsResponse{
		Seq: e.Seq, Time: timestamppb.New(e.Time), Actor: e.Actor, Kind: string(e.Kind), Machine: string(e.Machine),
		Message: e.Message, Alarm: e.Alarm, Hash: e.Hash,
	}
}
