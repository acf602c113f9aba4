package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/blob"
	"github.com/cameronraysmith/fleet/coordinator/internal/ca"
	"github.com/cameronraysmith/fleet/coordinator/internal/enrol"
	"github.com/cameronraysmith/fleet/coordinator/internal/looks"
	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const (
	// stopTimeout bounds how long calls under way may go on at the end.
	stopTimeout = 5 * time.Second
	// handshakeTimeout bounds a handshake; a whole fleet may come at once and
	// take turns.
	handshakeTimeout = time.Minute
	// idleTimeout closes connections without a call: strangers', and operators'.
	// An agent's has its stream.
	idleTimeout = 5 * time.Minute
	// pingEvery and pingTimeout find peers that went without a word.
	pingEvery   = time.Minute
	pingTimeout = 20 * time.Second
	// minClientPing is how often a client may ping: more often than any agent
	// does, so that jitter never counts as abuse.
	minClientPing = 10 * time.Second
	// maxRequest bounds a message from outside: an inventory of fifty thousand
	// machines, a report with the generations that go with it.
	maxRequest = 4 << 20
	// readBuffer and writeBuffer are per connection. Wake-ups are tiny, and most
	// connections are idle: reads go through the buffer of TLS anyway, and write
	// buffers are shared: of the size of a TLS record.
	readBuffer  = 1 << 10
	writeBuffer = 16 << 10
	// maxStreams bounds the calls of one connection at a time, each of which may
	// have a request of maxRequest under way.
	maxStreams = 32
	// maxHeaders bounds the headers of a call as they are after decompression.
	maxHeaders = 16 << 10
)

// Options of a Server.
type Options struct {
	Fleet     fleet.FleetID
	Registry  *registry.Registry
	Publisher *publish.Publisher
	Enroller  *enrol.Enroller
	Authority *ca.Authority
	Log       *audit.Log
	Looks     *looks.Looks
	Blobs     *blob.Store
	// TransferPace is the slowest upload or download that is put up with.
	TransferPace pace.Limit
	Now          func() time.Time
	Slog         *slog.Logger
}

// Server serves the coordinator's gRPC services.
type Server struct {
	o      Options
	auth   *authorizer
	guard  *guard
	grpc   *grpc.Server
	health *health.Server
	// stopping ends streams that would go on for ever.
	stopping context.Context //nolint:containedctx // The life of the server, not of a call.
	stop     context.CancelCauseFunc
	hints    hints
}

// New makes a server. It serves nothing yet.
func New(o Options) *Server {
	s := &Server{o: o, health: health.NewServer()}
	s.stopping, s.stop = context.WithCancelCause(context.Background())
	auth := &authorizer{registry: o.Registry, now: o.Now, operators: map[*operatorStream]bool{}}
	s.auth = auth
	s.guard = newGuard(s.stopping, credentials.NewTLS(pki.ServerTLS(pki.ServerConfig{
		Certificate: o.Authority.Server, CAs: o.Authority.CAs, Fleet: o.Fleet, Now: o.Now, Grace: pki.RenewGrace,
	})))
	s.grpc = grpc.NewServer(
		grpc.Creds(s.guard),
		grpc.InTapHandle(newUnderway().tap),
		grpc.UnaryInterceptor(auth.unary),
		grpc.StreamInterceptor(auth.stream),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minClientPing, PermitWithoutStream: true}),
		grpc.WriteBufferSize(writeBuffer),
		grpc.ReadBufferSize(readBuffer),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.WaitForHandlers(true),
	)
	fleetv1.RegisterEnrolmentServiceServer(s.grpc, &enrolmentService{s: s})
	fleetv1.RegisterHostServiceServer(s.grpc, &hostService{s: s})
	fleetv1.RegisterOperatorServiceServer(s.grpc, &operatorService{s: s})
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	return s
}

// Serve serves until ctx ends. Then streams are cut, calls under way get
// stopTimeout, and it returns nil. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	s.health.Shutdown()
	s.o.Registry.Stop()
	s.stop(registry.ErrStopping)
	stopped := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(stopped)
	}()
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-stopped:
	case <-timer.C:
		s.grpc.Stop()
		<-stopped
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// untilStop returns a context that ends with the call or with the server.
func (s *Server) untilStop(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(s.stopping, func() { cancel(context.Cause(s.stopping)) })
	return ctx, func() {
		release()
		cancel(nil)
	}
}
