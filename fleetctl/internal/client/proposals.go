package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/ui"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const (
	// MaxProposalBytes bounds a proposal: the signed documents of a large fleet.
	MaxProposalBytes = 256 << 20
	// maxProposals is more than a coordinator keeps.
	maxProposals = 1000
)

// Proposal is a release that waits for people's signatures.
type Proposal struct {
	Release fleet.ReleaseID
	// Blob holds what is proposed.
	Blob     fleet.BlobRef
	Revision string
	// Actor and Time are what the coordinator says.
	Actor string
	Time  time.Time
	Count int
}

func proposal(p *fleetv1.Proposal) Proposal {
	return Proposal{
		Release: fleet.ReleaseID(text(p.GetRelease())), Blob: fleet.BlobRef{Digest: fleet.Digest(text(p.GetDigest())), Size: p.GetSize()},
		Revision: text(p.GetRevision()), Actor: text(p.GetActor()), Time: when(p.GetTime()), Count: int(p.GetCount()),
	}
}

// Propose announces a release whose proposal was uploaded.
func (c *Client) Propose(ctx context.Context, p Proposal) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	_, err := c.rpc.Propose(ctx, &fleetv1.ProposeRequest{
		Release: string(p.Release), Digest: string(p.Blob.Digest), Size: p.Blob.Size, Revision: p.Revision,
		Count: uint32(p.Count), //nolint:gosec // Bounded by the number of machines.
	})
	if err != nil {
		return fmt.Errorf("proposing release %s: %w", p.Release, c.explain(ctx, err))
	}
	return nil
}

// Proposals asks for the releases that wait, newest first.
func (c *Client) Proposals(ctx context.Context) ([]Proposal, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.ListProposals(ctx, &fleetv1.ListProposalsRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking for the releases that wait: %w", c.explain(ctx, err))
	}
	if n := len(res.GetProposals()); n > maxProposals {
		return nil, fmt.Errorf("asking for the releases that wait: %w", tooMuch("%d releases", n))
	}
	out := make([]Proposal, 0, len(res.GetProposals()))
	for _, p := range res.GetProposals() {
		out = append(out, proposal(p))
	}
	return out, nil
}

// Proposal fetches what is proposed for a release. It is what the coordinator
// says that was proposed; nothing in it is verified. ErrNotFound where there is
// none.
func (c *Client) Proposal(ctx context.Context, id fleet.ReleaseID) (Proposal, []byte, error) {
	ctx, in, end := c.intake(ctx, MaxProposalBytes/(64<<10)+2, 2*MaxProposalBytes, pace.Default)
	defer end()
	p, data, err := c.proposal(ctx, in, id)
	if err != nil {
		return Proposal{}, nil, fmt.Errorf("fetching what is proposed as %s: %w", id, err)
	}
	return p, data, nil
}

func (c *Client) proposal(ctx context.Context, in *intake, id fleet.ReleaseID) (p Proposal, data []byte, err error) {
	stream, err := c.rpc.GetProposal(ctx, &fleetv1.GetProposalRequest{Release: string(id)})
	if err != nil {
		return p, nil, c.explain(ctx, err)
	}
	for first := true; ; first = false {
		m, size, err := receive(in, stream.Recv)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = in.take(size)
		}
		if err != nil {
			return p, nil, err
		}
		if first {
			p = proposal(m.GetProposal())
		}
		if uint64(len(data))+uint64(len(m.GetData())) > min(p.Blob.Size, MaxProposalBytes) {
			return p, nil, tooMuch("a proposal of more than %d bytes", p.Blob.Size)
		}
		data = append(data, m.GetData()...)
	}
	if p.Release != id || fleet.DigestOf(data) != p.Blob.Digest {
		return p, nil, ui.WithHint(fmt.Errorf("%w: it is not the one that was announced", ErrRefused),
			"stage it again; if it repeats, find out what has become of the coordinator")
	}
	return p, data, nil
}
