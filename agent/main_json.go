package agent

import (
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// statusDocument is the JSON form of status. Fields are only ever added.
type statusDocument struct {
	Note            string            `json:"note,omitempty"`
	Machine         string            `json:"machine"`
	Mode            fleet.Mode        `json:"mode"`
	Paused          string            `json:"paused,omitempty"`
	Coordinator     *fleet.Reason     `json:"coordinator,omitempty"`
	CoordinatorSeen *time.Time        `json:"coordinator_seen,omitempty"`
	Outbox          uint64            `json:"outbox"`
	IdentityExpires *time.Time        `json:"identity_expires,omitempty"`
	AgentVersion    string            `json:"agent_version,omitempty"`
	Profiles        []profileDocument `json:"profiles"`
}

type profileDocument struct {
	Profile   fleet.ProfileName `json:"profile"`
	State     fleet.State       `json:"state"`
	Reason    fleet.Reason      `json:"reason"`
	Desired   *refDocument      `json:"desired,omitempty"`
	Current   *refDocument      `json:"current,omitempty"`
	Confirmed *refDocument      `json:"confirmed,omitempty"`
	LastGood  *refDocument      `json:"last_good,omitempty"`
	Highest   *refDocument      `json:"highest,omitempty"`
	Refused   []refDocument     `json:"refused,omitempty"`
}

type refDocument struct {
	Number  string          `json:"number"`
	Digest  fleet.Digest    `json:"digest"`
	Release fleet.ReleaseID `json:"release"`
}

func statusJSON(s control.Status, note string) statusDocument {
	d := statusDocument{
		Note: note, Machine: string(s.Machine), Mode: s.Mode, Paused: s.Paused,
		CoordinatorSeen: timeJSON(s.CoordinatorSeen), Outbox: s.Outbox,
		IdentityExpires: timeJSON(s.IdentityExpires), AgentVersion: s.AgentVersion, Profiles: []profileDocument{},
	}
	if s.Coordinator.Code != "" {
		d.Coordinator = &s.Coordinator
	}
	for _, p := range s.Profiles {
		q := profileDocument{
			Profile: p.Profile, State: p.State, Reason: p.Reason, Desired: refJSON(p.Desired), Current: refJSON(p.Current),
			Confirmed: refJSON(p.Confirmed), LastGood: refJSON(p.LastGood), Highest: refJSON(p.Highest),
		}
		for _, r := range p.Refused {
			q.Refused = append(q.Refused, *refJSON(r))
		}
		d.Profiles = append(d.Profiles, q)
	}
	return d
}

func refJSON(r fleet.Ref) *refDocument {
	if r.IsZero() {
		return nil
	}
	return &refDocument{Number: r.Number.String(), Digest: r.Digest, Release: r.Release}
}

func timeJSON(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
