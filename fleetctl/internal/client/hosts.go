package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Host is what the coordinator says of a machine, for people: nothing in it is
// verified.
type Host struct {
	Machine  string
	Class    string
	Tags     []string
	Disabled bool
	Enrolled bool
	// Banned is the reason of a ban, empty where there is none.
	Banned          string
	Connected       bool
	LastSeen        time.Time
	Mode            string
	AgentVersion    string
	IdentityExpires time.Time
	// IdentityCA is the key id, in lower-case hex, of the CA of the certificate that
	// the host showed; empty where that is not known.
	IdentityCA string
	Profiles   []Profile
}

// Profile is where a profile of a host is and why.
type Profile struct {
	Name   string
	State  string
	Reason fleet.Reason
	Desired, Current, Confirmed,
	LastGood, Highest Ref
	Refused []Ref
}

// Ref names a generation, for people.
type Ref struct {
	Number  string `json:"number"`
	Digest  string `json:"digest"`
	Release string `json:"release"`
}

// Hosts asks for one machine, or all where machine is empty.
func (c *Client) Hosts(ctx context.Context, machine fleet.MachineName) ([]Host, error) {
	return c.HostsReported(ctx, machine, nil)
}

// HostsReported does the same and calls each with every host and the report that
// it signed last, which may be empty: nothing here has verified it. Reports are
// not bounded together, so each MUST NOT keep them. A nil each asks for none.
func (c *Client) HostsReported(ctx context.Context, machine fleet.MachineName, each func(h *Host, report []byte) error) ([]Host, error) {
	most := maxHosts
	if machine != "" {
		most = 1
	}
	ctx, cancel := c.call(ctx)
	defer cancel()
	ctx, in, end := c.intake(ctx, most, maxHostsBytes, pace.Default)
	defer end()
	out, err := c.hosts(ctx, in, machine, each)
	if err != nil {
		return nil, fmt.Errorf("asking for the hosts: %w", err)
	}
	return out, nil
}

func (c *Client) hosts(ctx context.Context, in *intake, machine fleet.MachineName, each func(*Host, []byte) error) ([]Host, error) {
	stream, err := c.rpc.ListHosts(ctx, &fleetv1.ListHostsRequest{Machine: string(machine), Reports: each != nil})
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	var out []Host
	for {
		m, size, err := receive(in, stream.Recv)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err == nil {
			if each != nil {
				size -= len(m.GetHost().GetReport())
			}
			err = in.take(size + hostCost(m.GetHost()))
		}
		if err != nil {
			return nil, err
		}
		h := host(m.GetHost())
		if each != nil {
			if err := each(&h, m.GetHost().GetReport()); err != nil {
				return nil, err
			}
		}
		out = append(out, h)
	}
}

// hostCost is what a host takes up besides its texts.
func hostCost(h *fleetv1.Host) int {
	n := len(h.GetMachine().GetTags()) * refBytes
	for _, p := range h.GetProfiles() {
		n += profileBytes + len(p.GetRefused())*refBytes
	}
	return n
}

func host(h *fleetv1.Host) Host {
	out := Host{
		Machine: text(h.GetMachine().GetName()), Class: text(h.GetMachine().GetClass()),
		Tags: texts(h.GetMachine().GetTags()), Disabled: h.GetMachine().GetDisabled(),
		Enrolled: h.GetEnrolled(), Banned: text(h.GetBanned()), Connected: h.GetConnected(),
		LastSeen: when(h.GetLastSeen()), Mode: text(h.GetMode()), AgentVersion: text(h.GetAgentVersion()),
		IdentityExpires: when(h.GetIdentityExpires()), IdentityCA: text(h.GetIdentityCa()),
	}
	for _, p := range h.GetProfiles() {
		r := p.GetReason()
		q := Profile{
			Name: text(p.GetProfile()), State: text(p.GetState()),
			Reason:  fleet.Reason{Code: fleet.ReasonCode(text(r.GetCode())), Message: text(r.GetMessage()), Hint: text(r.GetHint())},
			Desired: ref(p.GetDesired()), Current: ref(p.GetCurrent()), Confirmed: ref(p.GetConfirmed()),
			LastGood: ref(p.GetLastGood()), Highest: ref(p.GetHighest()),
		}
		for _, g := range p.GetRefused() {
			q.Refused = append(q.Refused, ref(g))
		}
		out.Profiles = append(out.Profiles, q)
	}
	return out
}

func ref(r *fleetv1.GenerationRef) Ref {
	return Ref{Number: text(r.GetNumber()), Digest: text(r.GetDigest()), Release: text(r.GetRelease())}
}

func when(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// Token registers the hash of a one-use token and says when it expires.
func (c *Client) Token(ctx context.Context, machine fleet.MachineName, hash []byte, ttl time.Duration) (time.Time, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.CreateToken(ctx, &fleetv1.CreateTokenRequest{
		Machine: string(machine), TokenHash: hash, TtlSeconds: uint32(ttl / time.Second), //nolint:gosec // Ten minutes.
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("registering a token for %s: %w", machine, c.explain(ctx, err))
	}
	return when(res.GetExpires()), nil
}

// RollBack sends a profile back and says where to.
func (c *Client) RollBack(ctx context.Context, machine fleet.MachineName, profile fleet.ProfileName) (Ref, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.RollBack(ctx, &fleetv1.RollBackRequest{Machine: string(machine), Profile: string(profile)})
	if err != nil {
		return Ref{}, fmt.Errorf("rolling %s back: %w", machine, c.explain(ctx, err))
	}
	return ref(res.GetTarget()), nil
}

// Loosen hands over a signed loosening document.
func (c *Client) Loosen(ctx context.Context, envelope []byte) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	if _, err := c.rpc.Loosen(ctx, &fleetv1.LoosenRequest{Document: envelope}); err != nil {
		return fmt.Errorf("handing over the signed document: %w", c.explain(ctx, err))
	}
	return nil
}

// Ban cuts a machine off, or lifts that again, and says how many connections
// were cut.
func (c *Client) Ban(ctx context.Context, machine fleet.MachineName, reason string, lift bool) (cut int, err error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.Ban(ctx, &fleetv1.BanRequest{Machine: string(machine), Reason: reason, Lift: lift})
	if err != nil {
		return 0, fmt.Errorf("telling the coordinator: %w", c.explain(ctx, err))
	}
	return int(res.GetStreamsCut()), nil
}
