// Package probe is the contract of external probes and its adapter to gRPC:
// what proto/probe/v1 says, in Go.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	probev1 "github.com/cameronraysmith/fleet/proto/probe/v1"
)

// MaxDetailBytes bounds what a probe says.
const MaxDetailBytes = 1 << 10

// Sentinels that errors of this package wrap.
var (
	// ErrAnswer says that a probe answered something that breaks the contract.
	ErrAnswer = errors.New("probe broke its contract")
	// ErrGone says that there is no connection to a probe any more.
	ErrGone = errors.New("probe is gone")
	// ErrUnsupported says that the other side is no probe.
	ErrUnsupported = errors.New("it serves no probe")
)

// Probe is one kind of health check.
type Probe interface {
	// Check looks once, until ctx ends at the latest; it MUST change nothing on
	// the host and be safe for concurrent use. An error counts as inconclusive:
	// what is known to be broken is VerdictFail. The agent asks again at the
	// probe's interval until it passes or the verify deadline is over.
	Check(ctx context.Context, req Request) (Result, error)
}

// Request asks for one look.
type Request struct {
	Profile fleet.ProfileName
	// Path is the built path that was activated.
	Path string
	// Config is the probe's own, a JSON object; empty for none.
	Config json.RawMessage
}

// Result is what was seen.
type Result struct {
	Verdict fleet.Verdict
	// Detail is one line for people.
	Detail string
}

// Serve registers p with s as version 1 of the contract.
func Serve(s grpc.ServiceRegistrar, p Probe) {
	probev1.RegisterProbeServiceServer(s, &server{probe: p})
}

type server struct {
	probev1.UnimplementedProbeServiceServer

	probe Probe
}

func (s *server) Check(ctx context.Context, req *probev1.CheckRequest) (*probev1.CheckResponse, error) {
	profile, err := fleet.ParseProfileName(req.GetProfile())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	res, err := s.probe.Check(ctx, Request{Profile: profile, Path: req.GetPath(), Config: req.GetConfig()})
	if err != nil {
		return nil, status.Error(codes.Unknown, clip(err.Error()))
	}
	resp := &probev1.CheckResponse{Detail: clip(res.Detail)}
	switch res.Verdict {
	case fleet.VerdictPass:
		resp.Verdict = probev1.Verdict_VERDICT_PASS
	case fleet.VerdictFail:
		resp.Verdict = probev1.Verdict_VERDICT_FAIL
	case fleet.VerdictInconclusive:
		resp.Verdict = probev1.Verdict_VERDICT_INCONCLUSIVE
	}
	return resp, nil
}

// Connect returns the probe that is served on the other side of cc. What it
// answers is checked before it is returned.
func Connect(cc grpc.ClientConnInterface) Probe {
	return &client{rpc: probev1.NewProbeServiceClient(cc)}
}

type client struct{ rpc probev1.ProbeServiceClient }

func (c *client) Check(ctx context.Context, req Request) (Result, error) {
	resp, err := c.rpc.Check(ctx, &probev1.CheckRequest{Profile: string(req.Profile), Path: req.Path, Config: req.Config})
	if err != nil {
		return Result{}, fromStatus(err)
	}
	res := Result{Detail: clip(resp.GetDetail())}
	switch resp.GetVerdict() {
	case probev1.Verdict_VERDICT_PASS:
		res.Verdict = fleet.VerdictPass
	case probev1.Verdict_VERDICT_FAIL:
		res.Verdict = fleet.VerdictFail
	case probev1.Verdict_VERDICT_INCONCLUSIVE:
		res.Verdict = fleet.VerdictInconclusive
	case probev1.Verdict_VERDICT_UNSPECIFIED:
		return Result{}, fmt.Errorf("%w: no verdict", ErrAnswer)
	default:
		return Result{}, fmt.Errorf("%w: verdict %d", ErrAnswer, resp.GetVerdict())
	}
	return res, nil
}

// fromStatus gives the sentinels back to who called.
func fromStatus(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	cause := err
	switch st.Code() { //nolint:exhaustive // Other codes have no sentinel.
	case codes.Unimplemented:
		cause = ErrUnsupported
	case codes.ResourceExhausted: // A message beyond what this side takes.
		cause = ErrAnswer
	case codes.Unavailable:
		cause = ErrGone
	case codes.Canceled:
		cause = context.Canceled
	case codes.DeadlineExceeded:
		cause = context.DeadlineExceeded
	}
	return &remoteError{message: clip(st.Message()), cause: cause}
}

// remoteError has the text of the other side and the sentinel of this one.
type remoteError struct {
	message string
	cause   error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.cause }

// clip bounds s and makes it valid for a message on the wire.
func clip(s string) string {
	if len(s) > MaxDetailBytes {
		s = s[:MaxDetailBytes] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
