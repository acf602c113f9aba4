package fakecoordinator

import (
	"context"

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
