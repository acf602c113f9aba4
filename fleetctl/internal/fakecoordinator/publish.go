package fakecoordinator

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// StatBlob says how much is there.
func (s *Server) StatBlob(_ context.Context, req *fleetv1.StatBlobRequest) (*fleetv1.StatBlobResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.Blobs[req.GetDigest()]; ok {
		return &fleetv1.StatBlobResponse{Complete: true, Offset: uint64(len(b))}, nil
	}
	return &fleetv1.StatBlobResponse{Offset: uint64(len(s.Partial[req.GetDigest()]))}, nil
}

// PutBlob takes an upload; what came before a cut stays.
func (s *Server) PutBlob(stream grpc.ClientStreamingServer[fleetv1.PutBlobRequest, fleetv1.PutBlobResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s.mu.Lock()
	got := s.Partial[first.GetDigest()]
	cut := -1
	if s.CutUploads > 0 {
		s.CutUploads--
		cut = len(got) + s.CutAfter
	}
	s.mu.Unlock()
	if first.GetOffset() != uint64(len(got)) {
		return status.Error(codes.OutOfRange, "another offset")
	}
	for m := first; ; {
		got = append(got, m.GetData()...)
		s.mu.Lock()
		s.Partial[first.GetDigest()] = got
		s.mu.Unlock()
		if cut >= 0 && len(got) >= cut {
			return status.Error(codes.Unavailable, "cut")
		}
		if m, err = stream.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if uint64(len(got)) == first.GetSize() {
		if string(fleet.DigestOf(got)) != first.GetDigest() {
			return status.Error(codes.DataLoss, "wrong digest")
		}
		s.mu.Lock()
		s.Blobs[first.GetDigest()] = got
		delete(s.Partial, first.GetDigest())
		s.mu.Unlock()
	}
	return stream.SendAndClose(&fleetv1.PutBlobResponse{Offset: uint64(len(got))})
}

// Stage takes generations in.
func (s *Server) Stage(stream grpc.ClientStreamingServer[fleetv1.StageRequest, fleetv1.StageResponse]) error {
	release := ""
	var gens []*fleetv1.SignedGeneration
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if m.GetRelease() != "" {
			release = m.GetRelease()
		}
		gens = append(gens, m.GetGeneration())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range gens {
		if doc, err := Document(g.GetGeneration()); err == nil && doc.Issued.After(s.now().Add(s.Skew+time.Hour)) {
			return refusal.New(codes.FailedPrecondition, fleet.Reason{Code: fleet.ReasonClock, Message: "signed with a time that is still to come", Hint: "set the clocks"})
		}
	}
	s.Staged[release] = gens
	return stream.SendAndClose(&fleetv1.StageResponse{Count: uint32(len(gens))}) //nolint:gosec // Few.
}

// Commit flips the head.
func (s *Server) Commit(_ context.Context, req *fleetv1.CommitRequest) (*fleetv1.CommitResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Head != req.GetExpectedHead() {
		return nil, refusal.New(codes.Aborted, fleet.Reason{Code: refusal.HeadMoved, Message: "the head is " + s.Head})
	}
	gens := s.Staged[req.GetRelease()]
	if len(gens) != int(req.GetCount()) {
		return nil, status.Error(codes.FailedPrecondition, "incomplete")
	}
	for _, g := range gens {
		doc, err := Document(g.GetGeneration())
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		for _, b := range append(doc.Source.Blobs(), doc.PluginBlobs()...) {
			if _, ok := s.Blobs[string(b.Digest)]; !ok {
				return nil, status.Error(codes.FailedPrecondition, "a blob is missing")
			}
		}
		s.Newest[string(doc.Machine)+"/"+string(doc.Profile)] = g
	}
	s.Head = req.GetRelease()
	delete(s.Proposals, req.GetRelease())
	s.Releases = append(s.Releases, &fleetv1.Release{
		Id: req.GetRelease(), Actor: s.Callers[len(s.Callers)-1], Revision: req.GetRevision(), Machines: uint32(len(gens)), //nolint:gosec // Few.
	})
	if s.LoseCommit {
		s.LoseCommit = false
		return nil, status.Error(codes.Unavailable, "the answer got lost")
	}
	return &fleetv1.CommitResponse{}, nil
}

// Document reads a generation without verifying it.
func Document(envelope []byte) (*fleet.Generation, error) {
	var e struct{ Payload string }
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, err
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		return nil, err
	}
	g := &fleet.Generation{}
	return g, json.Unmarshal(payload, g)
}
