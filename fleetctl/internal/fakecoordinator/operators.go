package fakecoordinator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// AddTrustRoots keeps them.
func (s *Server) AddTrustRoots(_ context.Context, req *fleetv1.AddTrustRootsRequest) (*fleetv1.AddTrustRootsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Roots = append(s.Roots, req.GetRoots()...)
	s.RootVersion += uint64(len(req.GetRoots()))
	return &fleetv1.AddTrustRootsResponse{Version: s.RootVersion}, nil
}

// AddOperator issues a certificate with the kit's CA and remembers the operator.
func (s *Server) AddOperator(_ context.Context, req *fleetv1.AddOperatorRequest) (*fleetv1.AddOperatorResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &fleetv1.Operator{Name: req.GetName(), Role: req.GetRole(), Changed: timestamppb.New(s.now().Add(s.Skew))}
	out := &fleetv1.AddOperatorResponse{Operator: o}
	if old := s.OperatorStates[req.GetName()]; old != nil {
		o.Key = old.GetOperator().GetKey()
	}
	if len(req.GetCsr()) > 0 {
		pub, err := pki.ParseCSR(req.GetCsr())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		if out.Certificate, err = s.ca.Issue(pki.OperatorIdentity(s.fleet, fleet.OperatorName(req.GetName())), pub, s.now(), pki.OperatorTTL); err != nil {
			return nil, err
		}
		o.Key, _ = pki.KeyFingerprint(pub)
	}
	if s.AlterOperator != nil {
		s.AlterOperator(out)
	}
	s.OperatorStates[req.GetName()] = &fleetv1.OperatorStatus{Operator: o}
	return out, nil
}

// RemoveOperator remembers it.
func (s *Server) RemoveOperator(_ context.Context, req *fleetv1.RemoveOperatorRequest) (*fleetv1.RemoveOperatorResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.OperatorStates[req.GetName()]
	if old == nil {
		return nil, refusal.New(codes.NotFound, fleet.Reason{Code: refusal.NotFound, Message: "unknown operator", Hint: "see fleetctl operator list"})
	}
	o := old.GetOperator()
	o.Removed, o.Reason, o.Changed = true, req.GetReason(), timestamppb.New(s.now())
	return &fleetv1.RemoveOperatorResponse{Operator: o, ConnectionsCut: 2}, nil
}

// ListOperators lists them.
func (s *Server) ListOperators(context.Context, *fleetv1.ListOperatorsRequest) (*fleetv1.ListOperatorsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &fleetv1.ListOperatorsResponse{}
	for _, name := range slices.Sorted(maps.Keys(s.OperatorStates)) {
		out.Operators = append(out.Operators, s.OperatorStates[name])
	}
	return out, nil
}

// RenewOperator issues the caller's next certificate.
func (s *Server) RenewOperator(ctx context.Context, req *fleetv1.RenewOperatorRequest) (*fleetv1.RenewOperatorResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pub, err := pki.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	name := strings.TrimPrefix(s.Callers[len(s.Callers)-1], "operator/")
	der, err := s.ca.Issue(pki.OperatorIdentity(s.fleet, fleet.OperatorName(name)), pub, s.now(), pki.OperatorTTL)
	return &fleetv1.RenewOperatorResponse{Certificate: der}, err
}

// Propose remembers a proposal whose blob is there.
func (s *Server) Propose(_ context.Context, req *fleetv1.ProposeRequest) (*fleetv1.ProposeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.Blobs[req.GetDigest()]; !ok {
		return nil, status.Error(codes.FailedPrecondition, "the blob is not there")
	}
	s.Proposals[req.GetRelease()] = &fleetv1.Proposal{
		Release: req.GetRelease(), Digest: req.GetDigest(), Size: req.GetSize(), Revision: req.GetRevision(), Count: req.GetCount(),
		Actor: s.Callers[len(s.Callers)-1], Time: timestamppb.New(s.now()),
	}
	return &fleetv1.ProposeResponse{}, nil
}

// ListProposals lists them.
func (s *Server) ListProposals(context.Context, *fleetv1.ListProposalsRequest) (*fleetv1.ListProposalsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &fleetv1.ListProposalsResponse{}
	for _, id := range slices.Sorted(maps.Keys(s.Proposals)) {
		out.Proposals = append(out.Proposals, s.Proposals[id])
	}
	return out, nil
}

// GetProposal sends one in two pieces.
func (s *Server) GetProposal(req *fleetv1.GetProposalRequest, stream grpc.ServerStreamingServer[fleetv1.GetProposalResponse]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.Proposals[req.GetRelease()]
	if n == nil {
		return refusal.New(codes.NotFound, fleet.Reason{Code: refusal.NotFound, Message: "no such proposal", Hint: "see fleetctl releases --waiting"})
	}
	data := s.Blobs[n.GetDigest()]
	half := len(data) / 2
	if err := stream.Send(&fleetv1.GetProposalResponse{Proposal: n, Data: data[:half]}); err != nil {
		return err
	}
	return stream.Send(&fleetv1.GetProposalResponse{Data: data[half:]})
}

// ExportEvents sends the records that a test made.
func (s *Server) ExportEvents(req *fleetv1.ExportEventsRequest, stream grpc.ServerStreamingServer[fleetv1.ExportEventsResponse]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.Records {
		if uint64(i)+1 < req.GetFromSeq() || s.LastOnly && i < len(s.Records)-1 {
			continue
		}
		select {
		case <-time.After(s.Pause):
		case <-stream.Context().Done():
		}
		if err := stream.Send(&fleetv1.ExportEventsResponse{Record: r}); err != nil {
			return err
		}
	}
	return nil
}

// LookAtLog shows the records that a test made, and what was countersigned.
func (s *Server) LookAtLog(_ context.Context, req *fleetv1.LookAtLogRequest) (*fleetv1.LookAtLogResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &fleetv1.LookAtLogResponse{Looks: s.Looks}
	hash := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	if n := len(s.Records); n > 0 {
		out.Head = &fleetv1.LogHead{Seq: uint64(n), Hash: cmp.Or(s.LastHash, hash(s.Records[n-1]))}
	}
	for _, seq := range req.GetRecords() {
		var record []byte
		if seq >= 1 && seq <= uint64(len(s.Records)) {
			record = s.Records[seq-1]
		}
		out.Records = append(out.Records, record)
	}
	return out, nil
}

// Countersign keeps a look.
func (s *Server) Countersign(_ context.Context, req *fleetv1.CountersignRequest) (*fleetv1.CountersignResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Looks = append(s.Looks, req.GetLook())
	return &fleetv1.CountersignResponse{}, nil
}
