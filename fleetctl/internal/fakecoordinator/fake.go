// Package fakecoordinator is an OperatorService for tests of fleetctl: over
// loopback with mTLS, started from a real start-up kit, keeping the state that
// a coordinator keeps, and able to fail and to lie.
package fakecoordinator

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Server is a fake coordinator. Tests may look at and change its fields while
// no call is under way.
type Server struct {
	fleetv1.UnimplementedOperatorServiceServer
	// Address that it listens on.
	Address string

	now   func() time.Time
	ca    *pki.CA
	fleet fleet.FleetID

	mu sync.Mutex // guards what follows against concurrent calls
	State
	Faults
}

// State is what a coordinator keeps.
type State struct {
	Machines  []*fleetv1.Machine
	Operators []*fleetv1.Operator
	Bans      []*fleetv1.RecordedBan
	// Tokens maps hashes to machines.
	Tokens   map[string]string
	HostKeys []*fleetv1.HostKeys
	// Blobs that are whole, and Partial ones, by digest.
	Blobs, Partial map[string][]byte
	Staged         map[string][]*fleetv1.SignedGeneration
	Head           string
	// Newest generations by machine and profile.
	Newest     map[string]*fleetv1.SignedGeneration
	Releases   []*fleetv1.Release
	Hosts      []*fleetv1.Host
	Events     []*fleetv1.WatchEventsResponse
	Loosenings [][]byte
	Banned     map[string]string
	RolledBack []string
	// OperatorStates are the operators by name.
	OperatorStates map[string]*fleetv1.OperatorStatus
	// Records of the event log, as they are stored.
	Records [][]byte
	// Looks that were countersigned.
	Looks [][]byte
	// Proposals by release.
	Proposals map[string]*fleetv1.Proposal
	// Roots are those that were handed over.
	Roots [][]byte
	// RootVersion that the coordinator says it has.
	RootVersion uint64
	// Callers are who called, and Methods what, in order.
	Callers, Methods []string
}

// Faults are what goes wrong.
type Faults struct {
	// Before is called before each method; its error is the answer.
	Before func(method string) error
	// CutUploads ends that many uploads after CutAfter bytes.
	CutUploads, CutAfter int
	// LastOnly has an export begin with the last record, wherever it was to begin.
	LastOnly bool
	// Pause is how long an export rests before each record.
	Pause time.Duration
	// LastHash is shown as the hash of the last record, where it is not empty.
	LastHash string
	// CutEvents ends that many streams of events.
	CutEvents int
	// Skew is how far the coordinator's clock is ahead of the test's.
	Skew time.Duration
	// Timeless is a coordinator that does not say what time it is.
	Timeless bool
	// LoseCommit commits, but the answer gets lost.
	LoseCommit bool
	// AlterOperator changes the answer to AddOperator.
	AlterOperator func(*fleetv1.AddOperatorResponse)
	// Alter changes generations on their way out.
	Alter func(*fleetv1.SignedGeneration) *fleetv1.SignedGeneration
}

// Start serves from a kit until the test ends.
func Start(t testing.TB, k *kit.Kit, now func() time.Time) *Server {
	t.Helper()
	s := &Server{now: now, State: State{
		Tokens: map[string]string{}, Blobs: map[string][]byte{}, Partial: map[string][]byte{},
		RootVersion: uint64(len(k.Roots)),
		Staged:      map[string][]*fleetv1.SignedGeneration{}, Newest: map[string]*fleetv1.SignedGeneration{}, Banned: map[string]string{},
	}}
	authority, err := pki.ParseCA(k.CACert, k.CAKey)
	if err != nil {
		t.Fatal(err)
	}
	ca := authority.Cert
	s.ca, s.fleet = authority, k.Fleet
	s.OperatorStates, s.Proposals = map[string]*fleetv1.OperatorStatus{}, map[string]*fleetv1.Proposal{}
	for _, o := range k.Operators {
		s.OperatorStates[string(o.Name)] = &fleetv1.OperatorStatus{
			Operator: &fleetv1.Operator{Name: string(o.Name), Role: string(o.Role), Key: o.Key, Changed: timestamppb.New(o.Changed)},
			LastSeen: timestamppb.New(now()),
		}
	}
	key, err := x509.ParsePKCS8PrivateKey(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{k.Cert, k.CACert}, PrivateKey: key.(ed25519.PrivateKey)}
	creds := credentials.NewTLS(pki.ServerTLS(pki.ServerConfig{
		Certificate: func() (*tls.Certificate, error) { return cert, nil },
		CAs:         func() []*x509.Certificate { return []*x509.Certificate{ca} },
		Fleet:       k.Fleet, Now: now,
	}))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = l.Addr().String()
	srv := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	fleetv1.RegisterOperatorServiceServer(srv, s)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := s.enter(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return h(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := s.enter(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return h(srv, ss)
}

// enter lets operators in only.
func (s *Server) enter(ctx context.Context, method string) error {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return status.Error(codes.Unauthenticated, "no certificate")
	}
	id, err := pki.IdentityOf(info.State.PeerCertificates[0])
	if err != nil || id.Kind != pki.KindOperator {
		return status.Error(codes.PermissionDenied, "operators only")
	}
	s.mu.Lock()
	s.Callers, s.Methods = append(s.Callers, id.Path()), append(s.Methods, method)
	before := s.Before
	s.mu.Unlock()
	if before != nil {
		return before(method)
	}
	return nil
}

// Hook replaces Before while calls may be under way.
func (s *Server) Hook(before func(method string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Before = before
}

// ApplyInventory replaces the inventory.
func (s *Server) ApplyInventory(_ context.Context, req *fleetv1.ApplyInventoryRequest) (*fleetv1.ApplyInventoryResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Machines, s.Operators, s.Bans = req.GetMachines(), req.GetOperators(), req.GetBans()
	return &fleetv1.ApplyInventoryResponse{Changed: true}, nil
}

// CreateToken registers a token.
func (s *Server) CreateToken(_ context.Context, req *fleetv1.CreateTokenRequest) (*fleetv1.CreateTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Tokens[fmt.Sprintf("%x", req.GetTokenHash())] = req.GetMachine()
	return &fleetv1.CreateTokenResponse{}, nil
}

// ListHostKeys lists them.
func (s *Server) ListHostKeys(context.Context, *fleetv1.ListHostKeysRequest) (*fleetv1.ListHostKeysResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fleetv1.ListHostKeysResponse{Hosts: s.HostKeys}, nil
}

// GetHead returns head and newest generations.
func (s *Server) GetHead(_ *fleetv1.GetHeadRequest, stream grpc.ServerStreamingServer[fleetv1.GetHeadResponse]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := &fleetv1.GetHeadResponse{Head: s.Head, RootVersion: s.RootVersion}
	if !s.Timeless {
		first.Time = timestamppb.New(s.now().Add(s.Skew))
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(s.Newest)) {
		g := s.Newest[key]
		if s.Alter != nil {
			g = s.Alter(g)
		}
		if err := stream.Send(&fleetv1.GetHeadResponse{Generation: g}); err != nil {
			return err
		}
	}
	return nil
}

// ListReleases lists them, newest first.
func (s *Server) ListReleases(_ context.Context, req *fleetv1.ListReleasesRequest) (*fleetv1.ListReleasesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(s.Releases)
	slices.Reverse(list)
	if limit := int(req.GetLimit()); limit > 0 {
		list = list[:min(limit, len(list))]
	}
	return &fleetv1.ListReleasesResponse{Releases: list}, nil
}

// ListHosts lists them.
func (s *Server) ListHosts(req *fleetv1.ListHostsRequest, stream grpc.ServerStreamingServer[fleetv1.ListHostsResponse]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, h := range s.Hosts {
		if name := h.GetMachine().GetName(); req.GetMachine() != "" && req.GetMachine() != name {
			continue
		}
		found = true
		if err := stream.Send(&fleetv1.ListHostsResponse{Host: h}); err != nil {
			return err
		}
	}
	if req.GetMachine() != "" && !found {
		return status.Error(codes.NotFound, "unknown machine")
	}
	return nil
}

// WatchEvents sends what is there and, following, waits for the end.
func (s *Server) WatchEvents(req *fleetv1.WatchEventsRequest, stream grpc.ServerStreamingServer[fleetv1.WatchEventsResponse]) error {
	s.mu.Lock()
	events := slices.Clone(s.Events)
	cut := s.CutEvents > 0
	s.CutEvents--
	s.mu.Unlock()
	for _, e := range events {
		if e.GetSeq() < req.GetFromSeq() || req.GetMachine() != "" && req.GetMachine() != e.GetMachine() {
			continue
		}
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	if cut {
		return status.Error(codes.Unavailable, "cut")
	}
	if req.GetFollow() {
		<-stream.Context().Done()
	}
	return nil
}

// RollBack remembers the order.
func (s *Server) RollBack(_ context.Context, req *fleetv1.RollBackRequest) (*fleetv1.RollBackResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.RolledBack = append(s.RolledBack, req.GetMachine()+" "+req.GetProfile())
	return &fleetv1.RollBackResponse{Target: &fleetv1.GenerationRef{Number: "1.1", Digest: string(fleet.DigestOf(nil)), Release: "r1"}}, nil
}

// Loosen keeps the document.
func (s *Server) Loosen(_ context.Context, req *fleetv1.LoosenRequest) (*fleetv1.LoosenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Loosenings = append(s.Loosenings, req.GetDocument())
	return &fleetv1.LoosenResponse{}, nil
}

// Ban bans and lifts.
func (s *Server) Ban(_ context.Context, req *fleetv1.BanRequest) (*fleetv1.BanResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.GetLift() {
		delete(s.Banned, req.GetMachine())
		return &fleetv1.BanResponse{}, nil
	}
	s.Banned[req.GetMachine()] = req.GetReason()
	return &fleetv1.BanResponse{StreamsCut: 1}, nil
}
