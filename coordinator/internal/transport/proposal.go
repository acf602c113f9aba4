package transport

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func proposalToProto(n publish.Proposal) *fleetv1.Proposal {
	return &fleetv1.Proposal{
		Release: string(n.Release), Digest: string(n.Digest), Size: n.Size, Revision: n.Revision,
		Actor: n.Actor, Time: timeToProto(n.Time), Count: n.Count,
	}
}

// Propose announces a release that people have to sign.
func (o *operatorService) Propose(ctx context.Context, req *fleetv1.ProposeRequest) (*fleetv1.ProposeResponse, error) {
	id, err := fleet.ParseReleaseID(req.GetRelease())
	if err != nil {
		return nil, malformed(err)
	}
	digest, err := fleet.ParseDigest(req.GetDigest())
	if err != nil {
		return nil, malformed(err)
	}
	if len(req.GetRevision()) > maxText {
		return nil, malformed(errors.New("the revision is too long"))
	}
	err = o.s.o.Publisher.Propose(ctx, publish.Proposal{
		Release: id, Digest: digest, Size: req.GetSize(), Revision: req.GetRevision(), Count: req.GetCount(), Actor: callerOf(ctx).Path(),
	})
	if err != nil {
		return nil, err
	}
	return &fleetv1.ProposeResponse{}, nil
}

// ListProposals lists the releases that wait for signatures.
func (o *operatorService) ListProposals(ctx context.Context, _ *fleetv1.ListProposalsRequest) (*fleetv1.ListProposalsResponse, error) {
	all, err := o.s.o.Publisher.Proposals(ctx)
	if err != nil {
		return nil, err
	}
	out := &fleetv1.ListProposalsResponse{}
	for _, n := range all {
		out.Proposals = append(out.Proposals, proposalToProto(n))
	}
	return out, nil
}

// GetProposal streams a proposal: what it is, then its blob.
func (o *operatorService) GetProposal(req *fleetv1.GetProposalRequest, stream grpc.ServerStreamingServer[fleetv1.GetProposalResponse]) error {
	id, err := fleet.ParseReleaseID(req.GetRelease())
	if err != nil {
		return malformed(err)
	}
	ctx, release := o.s.untilStop(stream.Context())
	defer release()
	n, err := o.s.o.Publisher.Proposal(ctx, id)
	if err != nil {
		return err
	}
	r, err := o.s.o.Blobs.Open(n.Digest, 0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // It was only read.
	m := &fleetv1.GetProposalResponse{Proposal: proposalToProto(n)}
	buf := make([]byte, min(blobChunk, n.Size))
	for {
		k, err := io.ReadFull(r, buf)
		m.Data = buf[:k]
		if k > 0 {
			if err := stream.Send(m); err != nil {
				return err
			}
			m = &fleetv1.GetProposalResponse{}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
