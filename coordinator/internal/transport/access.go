// Package transport is the coordinator's gRPC edge: who may call what, and the
// translation between the wire and the packages that do the work. Types of the
// protocol and status codes stop here.
package transport

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// access says who may call a method. The zero value lets nobody.
type access struct {
	who who
	// role that an operator needs.
	role fleet.Role
	// expired lets a certificate through that has ended within the grace.
	expired bool
}

// who may call.
type who int

const (
	nobody who = iota
	// anyone, also without a certificate.
	anyone
	// identified is any identity of the fleet.
	identified
	host
	operator
)

// methods is who may call what: the only place that says so. A method that is
// not here can't be called.
var methods = map[string]access{
	fleetv1.EnrolmentService_Enrol_FullMethodName: {who: anyone},

	fleetv1.HostService_Watch_FullMethodName:        {who: host},
	fleetv1.HostService_GetDesired_FullMethodName:   {who: host},
	fleetv1.HostService_GetBlob_FullMethodName:      {who: host},
	fleetv1.HostService_Report_FullMethodName:       {who: host},
	fleetv1.HostService_PutFreshness_FullMethodName: {who: host},
	fleetv1.HostService_Renew_FullMethodName:        {who: host, expired: true},

	fleetv1.OperatorService_ApplyInventory_FullMethodName: {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_CreateToken_FullMethodName:    {who: operator, role: fleet.RoleAdmin},
	fleetv1.OperatorService_ListHostKeys_FullMethodName:   {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_GetHead_FullMethodName:        {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_StatBlob_FullMethodName:       {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_PutBlob_FullMethodName:        {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_Stage_FullMethodName:          {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_Commit_FullMethodName:         {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_ListReleases_FullMethodName:   {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_ListHosts_FullMethodName:      {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_WatchEvents_FullMethodName:    {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_RollBack_FullMethodName:       {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_Loosen_FullMethodName:         {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_Ban_FullMethodName:            {who: operator, role: fleet.RoleAdmin},
	fleetv1.OperatorService_AddTrustRoots_FullMethodName:  {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_AddOperator_FullMethodName:    {who: operator, role: fleet.RoleAdmin},
	fleetv1.OperatorService_RemoveOperator_FullMethodName: {who: operator, role: fleet.RoleAdmin},
	fleetv1.OperatorService_ListOperators_FullMethodName:  {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_RenewOperator_FullMethodName:  {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_Propose_FullMethodName:        {who: operator, role: fleet.RoleDeployer},
	fleetv1.OperatorService_ListProposals_FullMethodName:  {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_GetProposal_FullMethodName:    {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_ExportEvents_FullMethodName:   {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_LookAtLog_FullMethodName:      {who: operator, role: fleet.RoleViewer},
	fleetv1.OperatorService_Countersign_FullMethodName:    {who: operator, role: fleet.RoleViewer},

	grpc_health_v1.Health_Check_FullMethodName: {who: identified},
	grpc_health_v1.Health_List_FullMethodName:  {who: identified},
	grpc_health_v1.Health_Watch_FullMethodName: {who: identified},
}

// caller is who makes a call. It is nil for callers without a certificate.
type caller struct {
	pki.Peer
	role fleet.Role // of operators
}

// machine is the caller's machine; the authorizer made sure that it is a host.
func (c *caller) machine() fleet.MachineName { return fleet.MachineName(c.Name) }

type callerKey struct{}

// callerOf returns who makes the call.
func callerOf(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	return c
}

// authorizer decides whether a call is let through. It looks at bans, keys and
// roles of now, not of when the connection was opened.
type authorizer struct {
	registry *registry.Registry
	now      func() time.Time

	mu sync.Mutex // guards operators
	// operators are the streams of operators that go on now.
	operators map[*operatorStream]bool
}

// operatorStream is a stream that ends when its operator ceases to be one.
type operatorStream struct {
	caller *caller
	end    context.CancelCauseFunc
}

// track makes a stream's context end with whoever opened it.
func (a *authorizer) track(ctx context.Context, c *caller) (context.Context, func()) {
	if c == nil || c.Kind != pki.KindOperator {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	s := &operatorStream{c, end}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.operators[s] = true
	return ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.operators, s)
		end(nil)
	}
}

// endStreams ends the streams of those who are operators no longer.
func (a *authorizer) endStreams() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.operators {
		if _, err := a.role(s.caller); err != nil {
			s.end(err)
		}
	}
}

// authorize returns the caller, or a status error with the reason.
func (a *authorizer) authorize(ctx context.Context, method string) (*caller, error) {
	need := methods[method]
	switch need.who {
	case nobody:
		return nil, refuse(codes.PermissionDenied, refusal.NotAllowed, "this method is open to nobody", "update fleetctl or the coordinator, whichever is older")
	case anyone:
		return nil, nil
	case identified, host, operator:
	}
	c, err := a.identify(ctx)
	if err != nil {
		return nil, err
	}
	if c.Expired && !need.expired {
		return nil, expired(c)
	}
	switch c.Kind {
	case pki.KindHost:
		if need.who == operator {
			return nil, refuse(codes.PermissionDenied, refusal.NotAllowed, c.Path()+" is a host: only operators may do this", "use an operator's identity")
		}
		if err := a.registry.Admit(ctx, c.machine(), registry.IdentityOf(c.Leaf)); err != nil {
			return nil, statusOf(err)
		}
		return c, nil
	case pki.KindOperator:
		return c, a.operator(c, need)
	case pki.KindCoordinator:
		if need.who == identified {
			return c, nil
		}
	}
	return nil, refuse(codes.PermissionDenied, refusal.NotAllowed, c.Path()+" may not do this", "")
}

func (a *authorizer) operator(c *caller, need access) error {
	if need.who == host {
		return refuse(codes.PermissionDenied, refusal.NotAllowed, c.Path()+" is an operator: only hosts may do this", "")
	}
	role, err := a.role(c)
	if err != nil {
		return err
	}
	c.role = role
	a.registry.TouchOperator(fleet.OperatorName(c.Name), c.Leaf)
	if need.who == operator && !role.Includes(need.role) {
		return refuse(codes.PermissionDenied, refusal.NotAllowed,
			fmt.Sprintf("%s has the role %s, this needs %s", c.Path(), role, need.role),
			"ask an admin, who can change the role: fleetctl operator add "+c.Name+" --role "+string(need.role))
	}
	return nil
}

// role is an operator's role now.
func (a *authorizer) role(c *caller) (fleet.Role, error) {
	o, ok := a.registry.Operator(fleet.OperatorName(c.Name))
	if !ok {
		return "", refuse(codes.PermissionDenied, refusal.NotAllowed, c.Path()+" is not in the fleet's list of operators",
			"an admin adds it: fleetctl operator add; where there is none left, give the coordinator a new kit (fleetctl kit) and restart it")
	}
	if o.Key != "" && o.Key != registry.IdentityOf(c.Leaf).Fingerprint {
		return "", refuse(codes.PermissionDenied, refusal.IdentitySuperseded, "the certificate of "+c.Path()+" is over a key that counts no longer",
			"use the newer identity; if it is lost, make a request (fleetctl operator request) and have an admin add it (fleetctl operator add)")
	}
	return o.Role, nil
}

// still says whether the operator of a stream that goes on for long is one
// still: its role, and its certificate, were judged when it began.
func (a *authorizer) still(ctx context.Context) error {
	c := callerOf(ctx)
	if _, err := a.role(c); err != nil {
		return err
	}
	if now := a.now(); now.After(c.Leaf.NotAfter) {
		return expired(c)
	}
	return nil
}

func expired(c *caller) error {
	return refuse(codes.Unauthenticated, refusal.IdentityExpired,
		fmt.Sprintf("the certificate of %s ended on %s", c.Path(), c.Leaf.NotAfter.UTC().Format(time.RFC3339)),
		"hosts renew it by themselves; operators make a new one with fleetctl")
}

// identify reads the caller's certificate, which the handshake verified.
func (a *authorizer) identify(ctx context.Context) (*caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, refuse(codes.Unauthenticated, refusal.NoCertificate, "the caller is not known", "")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, refuse(codes.Unauthenticated, refusal.NoCertificate, "the connection is not encrypted", "")
	}
	id, ok, err := pki.PeerOf(info.State, a.now())
	if err != nil {
		return nil, refuse(codes.Unauthenticated, refusal.NoCertificate, err.Error(), "")
	}
	if !ok {
		return nil, refuse(codes.Unauthenticated, refusal.NoCertificate, "the caller showed no certificate", "enrol first")
	}
	return &caller{Peer: id}, nil
}

func (a *authorizer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	arrived(ctx)
	c, err := a.authorize(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	resp, err := handler(context.WithValue(ctx, callerKey{}, c), req)
	if err != nil {
		return nil, statusOf(err)
	}
	return resp, nil
}

func (a *authorizer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	c, err := a.authorize(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ctx, done := a.track(ss.Context(), c)
	defer done()
	return statusOf(handler(srv, &callerStream{ServerStream: ss, ctx: context.WithValue(ctx, callerKey{}, c)}))
}

// callerStream is a stream whose context knows the caller. Messages pass
// through untouched.
type callerStream struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // This is what a ServerStream is.
	once sync.Once
}

// Context returns the stream's context with the caller.
func (s *callerStream) Context() context.Context { return s.ctx }

// RecvMsg receives a message; after the first, the request has arrived.
func (s *callerStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	s.once.Do(func() { arrived(s.ctx) })
	return err
}
