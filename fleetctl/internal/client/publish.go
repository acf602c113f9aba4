package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/pkg/countcodec"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Envelopes are the DSSE envelopes of a generation and of its secrets
// manifest; Secrets is empty where it has none.
type Envelopes struct {
	Generation, Secrets []byte
}

// Head is the coordinator's head release and the newest generation of every
// profile. Nothing in it is verified.
type Head struct {
	Release     fleet.ReleaseID
	Generations []Envelopes
	// Time is what the coordinator's clock says; zero where it does not say it.
	Time time.Time
	// RootVersion of the coordinator's trust root; 0 where it does not say it.
	RootVersion uint64
}

// Head asks for the head.
func (c *Client) Head(ctx context.Context) (Head, error) {
	// Ended, the stream frees its goroutine.
	ctx, in, end := c.intake(ctx, maxHeadEntries, maxHeadBytes, pace.Default)
	defer end()
	h, err := c.head(ctx, in)
	if err != nil {
		return Head{}, fmt.Errorf("asking for the head release: %w", err)
	}
	return h, nil
}

func (c *Client) head(ctx context.Context, in *intake) (h Head, err error) {
	stream, err := c.rpc.GetHead(ctx, &fleetv1.GetHeadRequest{})
	if err != nil {
		return h, c.explain(ctx, err)
	}
	for first := true; ; first = false {
		m, size, err := receive(in, stream.Recv)
		if errors.Is(err, io.EOF) {
			return h, nil
		}
		if err == nil {
			err = in.take(size)
		}
		if err != nil {
			return h, err
		}
		if first {
			h.Time, h.RootVersion = when(m.GetTime()), m.GetRootVersion()
		}
		if first && m.GetHead() != "" {
			if h.Release, err = fleet.ParseReleaseID(m.GetHead()); err != nil {
				return h, err
			}
		}
		if g := m.GetGeneration(); g != nil {
			h.Generations = append(h.Generations, Envelopes{g.GetGeneration(), g.GetSecrets()})
		}
	}
}

// Machine is what the coordinator is told of a machine.
type Machine struct {
	Name     fleet.MachineName
	Class    fleet.Class
	Tags     []string
	Disabled bool
}

// Operator is what the coordinator is told of an operator.
type Operator struct {
	Name fleet.OperatorName
	Role fleet.Role
	// Key is the fingerprint of the only key whose certificates count; empty
	// where the repository has no record.
	Key string
	// Changed is when the record was made; zero for none.
	Changed time.Time
	Removed bool
	Reason  string
}

// Ban is a ban as the repository has it.
type Ban struct {
	Machine fleet.MachineName
	Reason  string
	Time    time.Time
}

// Inventory is what the coordinator is told of the fleet.
type Inventory struct {
	Machines  []Machine
	Operators []Operator
	Bans      []Ban
}

// ApplyInventory tells the coordinator what the fleet consists of. Operators
// and bans count from admins only.
func (c *Client) ApplyInventory(ctx context.Context, inv Inventory) (changed bool, err error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	req := &fleetv1.ApplyInventoryRequest{}
	for _, m := range inv.Machines {
		req.Machines = append(req.Machines, &fleetv1.Machine{
			Name: string(m.Name), Class: string(m.Class), Tags: m.Tags, Disabled: m.Disabled,
		})
	}
	for _, o := range inv.Operators {
		req.Operators = append(req.Operators, operatorToProto(o))
	}
	for _, b := range inv.Bans {
		req.Bans = append(req.Bans, &fleetv1.RecordedBan{Machine: string(b.Machine), Reason: b.Reason, Time: timestamppb.New(b.Time)})
	}
	res, err := c.rpc.ApplyInventory(ctx, req)
	if err != nil {
		return false, fmt.Errorf("handing over the inventory: %w", c.explain(ctx, err))
	}
	return res.GetChanged(), nil
}

func operatorToProto(o Operator) *fleetv1.Operator {
	p := &fleetv1.Operator{Name: string(o.Name), Role: string(o.Role), Key: o.Key, Removed: o.Removed, Reason: o.Reason}
	if !o.Changed.IsZero() {
		p.Changed = timestamppb.New(o.Changed)
	}
	return p
}

// HostKeys is what a host sent at enrolment, with its proof. Nothing in it is
// verified.
type HostKeys struct {
	Machine              string
	Keys, MAC, TokenHash []byte
}

// HostKeys asks for the keys of enrolled hosts.
func (c *Client) HostKeys(ctx context.Context) ([]HostKeys, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	codec := countcodec.New(maxHosts)
	res, err := c.rpc.ListHostKeys(ctx, &fleetv1.ListHostKeysRequest{}, grpc.MaxCallRecvMsgSize(maxKeysMessage), grpc.ForceCodecV2(codec))
	if codec.Err() != nil {
		return nil, fmt.Errorf("asking for host keys: %w", tooMuch("more than %d hosts", maxHosts))
	}
	if err != nil {
		return nil, fmt.Errorf("asking for host keys: %w", c.explain(ctx, err))
	}
	out := make([]HostKeys, 0, len(res.GetHosts()))
	for _, h := range res.GetHosts() {
		out = append(out, HostKeys{h.GetMachine(), h.GetKeys(), h.GetMac(), h.GetTokenHash()})
	}
	return out, nil
}

// Stage hands over the generations of a release; hosts don't see them before
// Commit. It may be called again after a failure.
func (c *Client) Stage(ctx context.Context, id fleet.ReleaseID, gens []Envelopes) error {
	ctx, out, end := c.sending(ctx, stagePace)
	defer end()
	stream, err := c.rpc.Stage(ctx)
	if err != nil {
		return fmt.Errorf("staging release %s: %w", id, c.explain(ctx, err))
	}
	for i, g := range gens {
		m := &fleetv1.StageRequest{Generation: &fleetv1.SignedGeneration{Generation: g.Generation, Secrets: g.Secrets}}
		if i == 0 {
			m.Release = string(id)
		}
		// An error of Send is io.EOF: the real one comes with the answer.
		size := len(g.Generation) + len(g.Secrets)
		if err := out.send(size, func() error { return stream.Send(m) }); err != nil {
			break
		}
	}
	var res *fleetv1.StageResponse
	if err := out.answer(func() (err error) { res, err = stream.CloseAndRecv(); return err }); err != nil {
		return fmt.Errorf("staging release %s: %w", id, err)
	}
	if int(res.GetCount()) != len(gens) {
		return fmt.Errorf("staging release %s: %w: %d generations are there instead of %d", id, ErrRefused, res.GetCount(), len(gens))
	}
	return nil
}

// Commit makes a staged release the head. ErrConflict when the head is no
// longer the expected one. After ErrUnreachable it may have happened: ask Head.
func (c *Client) Commit(ctx context.Context, id, expected fleet.ReleaseID, count int, revision string) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	_, err := c.rpc.Commit(ctx, &fleetv1.CommitRequest{
		Release: string(id), ExpectedHead: string(expected), Revision: revision,
		Count: uint32(count), //nolint:gosec // Bounded by the number of machines.
	})
	if err != nil {
		return fmt.Errorf("committing release %s: %w", id, c.explain(ctx, err))
	}
	return nil
}
