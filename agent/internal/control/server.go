package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const (
	logPieceBytes  = 64 << 10
	maxReasonBytes = 512
	// maxMessageBytes is a trust root at its limit, in its envelope.
	maxMessageBytes = 2 * fleet.MaxDocumentBytes
	// stopGrace bounds how long running calls may hold up a stop.
	stopGrace = 2 * time.Second
)

// Server serves the control socket.
type Server struct {
	listener net.Listener
	grpc     *grpc.Server
}

// Listen opens the socket in runDir, which it makes, closed to others. A
// socket that a dead agent left is replaced; one that answers is ErrInUse.
func Listen(ctx context.Context, runDir string, h Host) (*Server, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("opening control socket: %w", err)
	}
	if err := os.Chmod(runDir, 0o700); err != nil { //nolint:gosec // A directory.
		return nil, fmt.Errorf("opening control socket: %w", err)
	}
	l, err := listenAt(ctx, SocketPath(runDir), 0o600)
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer(grpc.Creds(peerCredentials{}), grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.ReadBufferSize(4<<10), grpc.WriteBufferSize(4<<10))
	fleetv1.RegisterControlServiceServer(g, &service{host: h})
	return &Server{listener: l, grpc: g}, nil
}

// listenAt opens a socket whose directory is there. One that a dead agent left is
// replaced; one that answers is ErrInUse.
func listenAt(ctx context.Context, path string, mode os.FileMode) (*net.UnixListener, error) {
	var d net.Dialer
	if conn, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("opening control socket %s: %w: give each agent a --run-dir of its own", path, ErrInUse)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replacing stale control socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening control socket (the path may be too long: use a shorter --run-dir): %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("opening control socket: %w", err)
	}
	return l, nil
}

// Serve answers until ctx ends, and then stops within a bound.
func (s *Server) Serve(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		hard := time.AfterFunc(stopGrace, s.grpc.Stop)
		defer hard.Stop()
		s.grpc.GracefulStop()
	})
	err := s.grpc.Serve(s.listener)
	if !stop() {
		<-stopped
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving control socket: %w", err)
	}
	return nil
}

// Close ends a server that does not serve.
func (s *Server) Close() { s.grpc.Stop(); _ = s.listener.Close() }

type service struct {
	fleetv1.UnimplementedControlServiceServer
	host Host
}

// Status serves the host's status.
func (s *service) Status(ctx context.Context, _ *fleetv1.StatusRequest) (*fleetv1.StatusResponse, error) {
	st, err := s.host.Status(ctx)
	if err != nil {
		return nil, answer(err)
	}
	return statusMessage(st), nil
}

// Pause keeps activations from starting.
func (s *service) Pause(ctx context.Context, r *fleetv1.PauseRequest) (*fleetv1.PauseResponse, error) {
	reason := strings.TrimSpace(r.GetReason())
	if err := CheckPauseReason(reason); err != nil {
		return nil, refusal.New(codes.InvalidArgument, fleet.Reason{
			Code: refusal.Malformed, Message: err.Error(), Hint: ui.HintOf(err),
		})
	}
	if err := s.host.Pause(ctx, reason, actorOf(ctx)); err != nil {
		return nil, answer(err)
	}
	return &fleetv1.PauseResponse{}, nil
}

// CheckPauseReason says what is wrong with a pause's reason, if anything is.
func CheckPauseReason(reason string) error {
	if n := len(strings.TrimSpace(reason)); n == 0 || n > maxReasonBytes {
		return ui.WithHint(fmt.Errorf("a pause needs a reason of 1 to %d bytes, this one has %d", maxReasonBytes, n), "say why, for whoever finds the host paused")
	}
	return nil
}

// Resume lifts a pause.
func (s *service) Resume(ctx context.Context, _ *fleetv1.ResumeRequest) (*fleetv1.ResumeResponse, error) {
	if err := s.host.Resume(ctx, actorOf(ctx)); err != nil {
		return nil, answer(err)
	}
	return &fleetv1.ResumeResponse{}, nil
}

// LocalRollBack begins a return to last-good.
func (s *service) LocalRollBack(ctx context.Context, r *fleetv1.LocalRollBackRequest) (*fleetv1.LocalRollBackResponse, error) {
	profile, err := profileOf(r.GetProfile())
	if err != nil {
		return nil, err
	}
	var leaving fleet.Number
	if text := r.GetLeaving(); text != "" {
		if leaving, err = fleet.ParseNumber(text); err == nil && leaving.IsZero() {
			err = errors.New("0 is no generation that could be left")
		}
		if err != nil {
			return nil, refusal.New(codes.InvalidArgument, fleet.Reason{Code: refusal.Malformed, Message: err.Error()})
		}
	}
	b, err := s.host.RollBack(ctx, profile, leaving, actorOf(ctx))
	if err != nil {
		return nil, answer(err)
	}
	return &fleetv1.LocalRollBackResponse{Target: refMessage(b.Target), Already: b.Already}, nil
}

// LocalRetry forgets a refusal.
func (s *service) LocalRetry(ctx context.Context, req *fleetv1.LocalRetryRequest) (*fleetv1.LocalRetryResponse, error) {
	profile, err := profileOf(req.GetProfile())
	if err != nil {
		return nil, err
	}
	r, err := s.host.Retry(ctx, profile, actorOf(ctx))
	if err != nil {
		return nil, answer(err)
	}
	return &fleetv1.LocalRetryResponse{Target: refMessage(r.Target), Waited: reasonMessage(r.Waited)}, nil
}

// Boot lets a generation be booted.
func (s *service) Boot(ctx context.Context, r *fleetv1.BootRequest) (*fleetv1.BootResponse, error) {
	profile, err := profileOf(r.GetProfile())
	if err != nil {
		return nil, err
	}
	target, err := s.host.Boot(ctx, profile, actorOf(ctx))
	if err != nil {
		return nil, answer(err)
	}
	return &fleetv1.BootResponse{Target: refMessage(target)}, nil
}

// Logs streams the output of the newest activation.
func (s *service) Logs(r *fleetv1.LogsRequest, out grpc.ServerStreamingServer[fleetv1.LogsResponse]) error {
	profile, err := profileOf(r.GetProfile())
	if err != nil {
		return err
	}
	f, err := s.host.Logs(out.Context(), profile)
	if err != nil {
		return answer(err)
	}
	defer func() { _ = f.Close() }()
	for buf := make([]byte, logPieceBytes); ; {
		n, err := f.Read(buf)
		if n > 0 {
			if err := out.Send(&fleetv1.LogsResponse{Data: buf[:n]}); err != nil {
				return err //nolint:wrapcheck // A status already.
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return answer(err)
		}
	}
}

func actorOf(ctx context.Context) string {
	if p, ok := grpcpeer.FromContext(ctx); ok {
		if who, ok := p.AuthInfo.(peer); ok {
			return who.actor()
		}
	}
	return "local"
}

func profileOf(s string) (fleet.ProfileName, error) {
	if s == "" {
		return fleet.System, nil
	}
	p, err := fleet.ParseProfileName(s)
	if err != nil {
		return "", refusal.New(codes.InvalidArgument, fleet.Reason{Code: refusal.Malformed, Message: err.Error()})
	}
	return p, nil
}

// answers are the errors that a client can tell apart, by their codes.
var answers = map[codes.Code]error{codes.FailedPrecondition: ErrNotPossible, codes.NotFound: ErrNothingRefused}

func answer(err error) error {
	r := reasonFor(err)
	for code, is := range answers {
		if errors.Is(err, is) {
			return refusal.New(code, r)
		}
	}
	return refusal.New(codes.Internal, r)
}

// stripped is the text of an error without what the client puts in front again.
func stripped(err error) string {
	text := err.Error()
	for _, is := range answers {
		if errors.Is(err, is) {
			text = strings.TrimPrefix(text, is.Error()+": ")
		}
	}
	return text
}
