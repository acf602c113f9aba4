package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	driverv1 "github.com/cameronraysmith/fleet/proto/driver/v1"
)

var (
	// ErrAnswer says that a driver answered something that breaks the contract.
	ErrAnswer = errors.New("driver broke its contract")
	// ErrGone says that there is no connection to a driver any more.
	ErrGone = errors.New("driver is gone")
)

// maxProgress bounds the messages of one build.
const maxProgress = 1 << 16

// Connect returns the driver that is served on the other side of cc. What it
// answers is checked before it is returned.
func Connect(cc grpc.ClientConnInterface) Driver {
	return &client{rpc: driverv1.NewDriverServiceClient(cc)}
}

type client struct {
	rpc driverv1.DriverServiceClient
}

func (c *client) Current(ctx context.Context, profile fleet.ProfileName) (string, error) {
	resp, err := c.rpc.Current(ctx, &driverv1.CurrentRequest{Profile: string(profile)})
	if err != nil {
		return "", fromStatus(err)
	}
	if resp.GetPath() == "" {
		return "", nil
	}
	return checkAnswer(resp.GetPath())
}

func (c *client) Build(ctx context.Context, req BuildRequest, progress func(Progress)) (string, error) {
	p, err := buildRequestToProto(req)
	if err != nil {
		return "", err
	}
	// Leaving early must end the stream.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Build(ctx, p)
	if err != nil {
		return "", fromStatus(err)
	}
	path := ""
	for messages := 0; ; messages++ {
		resp, err := stream.Recv()
		switch {
		case messages > maxProgress:
			return "", fmt.Errorf("%w: more than %d messages of progress", ErrAnswer, maxProgress)
		case errors.Is(err, io.EOF):
			return checkAnswer(path)
		case err != nil:
			return "", fromStatus(err)
		case path != "":
			return "", fmt.Errorf("%w: a message after the path of the build", ErrAnswer)
		}
		if path = resp.GetPath(); path == "" && progress != nil {
			progress(Progress{Message: clip(resp.GetMessage(), maxProgressBytes), Done: resp.GetDone(), Total: resp.GetTotal()})
		}
	}
}

func (c *client) Diff(ctx context.Context, profile fleet.ProfileName, from, to string) ([]string, error) {
	resp, err := c.rpc.Diff(ctx, &driverv1.DiffRequest{Profile: string(profile), From: from, To: to})
	if err != nil {
		return nil, fromStatus(err)
	}
	return boundLines(resp.GetLines()), nil
}

func (c *client) Activation(ctx context.Context, profile fleet.ProfileName, from, to string) (Activation, error) {
	resp, err := c.rpc.Activation(ctx, &driverv1.ActivationRequest{Profile: string(profile), From: from, To: to})
	if err != nil {
		return Activation{}, fromStatus(err)
	}
	a, err := activationFromProto(resp)
	if err != nil {
		return Activation{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return a, nil
}

// Prune implements Pruner: ErrUnsupported where the driver doesn't.
func (c *client) Prune(ctx context.Context, keep []string) ([]string, error) {
	resp, err := c.rpc.Prune(ctx, &driverv1.PruneRequest{Keep: keep})
	if err != nil {
		return nil, fromStatus(err)
	}
	return resp.GetRemoved(), nil
}

func checkAnswer(path string) (string, error) {
	if len(path) > 4096 || !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", fmt.Errorf("%w: path %q: want an absolute path without \".\" or \"..\" in it", ErrAnswer, clip(path, 80))
	}
	return path, nil
}

// fromStatus gives the sentinels back to who called.
func fromStatus(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &remoteError{message: clip(st.Message(), maxErrorBytes)}
	switch st.Code() { //nolint:exhaustive // Other codes have no sentinel.
	case codes.InvalidArgument:
		e.cause = ErrSource
	case codes.FailedPrecondition:
		e.cause = ErrNotBuilt
	case codes.Unimplemented:
		e.cause = ErrUnsupported
	case codes.ResourceExhausted: // A message beyond what this side takes.
		e.cause = ErrAnswer
	case codes.Unavailable:
		e.cause = ErrGone
	case codes.Canceled:
		e.cause = context.Canceled
	case codes.DeadlineExceeded:
		e.cause = context.DeadlineExceeded
	default:
		e.cause = err
	}
	return e
}

// remoteError has the text of the other side and the sentinel of this one.
type remoteError struct {
	message string
	cause   error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.cause }
