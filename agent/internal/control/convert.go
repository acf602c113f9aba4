package control

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func statusMessage(s Status) *fleetv1.StatusResponse {
	m := &fleetv1.StatusResponse{
		Machine: string(s.Machine), Mode: string(s.Mode), Paused: s.Paused,
		Coordinator: reasonMessage(s.Coordinator), CoordinatorSeen: timeMessage(s.CoordinatorSeen),
		Outbox: s.Outbox, IdentityExpires: timeMessage(s.IdentityExpires), AgentVersion: s.AgentVersion,
	}
	for _, p := range s.Profiles {
		pm := &fleetv1.ProfileStatus{
			Profile: string(p.Profile), State: string(p.State), Reason: reasonMessage(p.Reason),
			Desired: refMessage(p.Desired), Current: refMessage(p.Current), Confirmed: refMessage(p.Confirmed),
			LastGood: refMessage(p.LastGood), Highest: refMessage(p.Highest),
		}
		for _, r := range p.Refused {
			pm.Refused = append(pm.Refused, refMessage(r))
		}
		m.Profiles = append(m.Profiles, pm)
	}
	return m
}

func statusOf(m *fleetv1.StatusResponse) Status {
	s := Status{
		Machine: fleet.MachineName(m.GetMachine()), Mode: fleet.Mode(m.GetMode()), Paused: m.GetPaused(),
		Coordinator: reasonOf(m.GetCoordinator()), CoordinatorSeen: timeOf(m.GetCoordinatorSeen()),
		Outbox: m.GetOutbox(), IdentityExpires: timeOf(m.GetIdentityExpires()), AgentVersion: m.GetAgentVersion(),
	}
	for _, pm := range m.GetProfiles() {
		p := Profile{Desired: refOf(pm.GetDesired()), ProfileStatus: fleet.ProfileStatus{
			Profile: fleet.ProfileName(pm.GetProfile()), State: fleet.State(pm.GetState()), Reason: reasonOf(pm.GetReason()),
			Current: refOf(pm.GetCurrent()), Confirmed: refOf(pm.GetConfirmed()),
			LastGood: refOf(pm.GetLastGood()), Highest: refOf(pm.GetHighest()),
		}}
		for _, r := range pm.GetRefused() {
			p.Refused = append(p.Refused, refOf(r))
		}
		s.Profiles = append(s.Profiles, p)
	}
	return s
}

func refMessage(r fleet.Ref) *fleetv1.GenerationRef {
	return &fleetv1.GenerationRef{Number: r.Number.String(), Digest: string(r.Digest), Release: string(r.Release)}
}

// refOf reads what refMessage writes; the agent at the other end of the socket
// is trusted, so what can't be read is shown as nothing.
func refOf(m *fleetv1.GenerationRef) fleet.Ref {
	n, err := fleet.ParseNumber(m.GetNumber())
	if err != nil {
		return fleet.Ref{}
	}
	return fleet.Ref{Number: n, Digest: fleet.Digest(m.GetDigest()), Release: fleet.ReleaseID(m.GetRelease())}
}

func reasonMessage(r fleet.Reason) *fleetv1.Reason {
	return &fleetv1.Reason{Code: string(r.Code), Message: r.Message, Hint: r.Hint}
}

func reasonOf(m *fleetv1.Reason) fleet.Reason {
	return fleet.Reason{Code: fleet.ReasonCode(m.GetCode()), Message: m.GetMessage(), Hint: m.GetHint()}
}

func timeMessage(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeOf(m *timestamppb.Timestamp) time.Time {
	if m == nil {
		return time.Time{}
	}
	return m.AsTime()
}
