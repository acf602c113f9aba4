package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Client talks to the agent of this machine.
type Client struct {
	conn *grpc.ClientConn
	rpc  fleetv1.ControlServiceClient
	path string
	// closed is set once the system kept this user from connecting, of which gRPC keeps
	// the text only.
	closed *atomic.Bool
}

// Dial prepares a client for the agent with that run directory; whether one
// runs shows at the first call, as ErrNoAgent, or ErrNotAllowed where this user may not
// ask it.
func Dial(runDir string) (*Client, error) {
	path, closed := SocketPath(runDir), &atomic.Bool{}
	conn, err := grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(peerCredentials{}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", path)
			if errors.Is(err, os.ErrPermission) {
				closed.Store(true)
			}
			return conn, err
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry())
	if err != nil {
		return nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	return &Client{conn: conn, rpc: fleetv1.NewControlServiceClient(conn), path: path, closed: closed}, nil
}

// Close closes the connection.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("closing connection to the agent: %w", err)
	}
	return nil
}

// Status asks for the host's status.
func (c *Client) Status(ctx context.Context) (Status, error) {
	m, err := c.rpc.Status(ctx, &fleetv1.StatusRequest{})
	if err != nil {
		return Status{}, c.explain(err)
	}
	return statusOf(m), nil
}

// Pause keeps activations from starting.
func (c *Client) Pause(ctx context.Context, reason string) error {
	_, err := c.rpc.Pause(ctx, &fleetv1.PauseRequest{Reason: reason})
	return c.explain(err)
}

// Resume lifts a pause.
func (c *Client) Resume(ctx context.Context) error {
	_, err := c.rpc.Resume(ctx, &fleetv1.ResumeRequest{})
	return c.explain(err)
}

// RollBack begins a return to last-good and says where that is. With a number
// that is not zero it leaves that generation and no other one, and can be called
// again where no answer came.
func (c *Client) RollBack(ctx context.Context, profile fleet.ProfileName, leaving fleet.Number) (RolledBack, error) {
	r := &fleetv1.LocalRollBackRequest{Profile: string(profile)}
	if !leaving.IsZero() {
		r.Leaving = leaving.String()
	}
	m, err := c.rpc.LocalRollBack(ctx, r)
	return RolledBack{Target: refOf(m.GetTarget()), Already: m.GetAlready()}, c.explain(err)
}

// Retry has the desired generation tried again and says which that is.
func (c *Client) Retry(ctx context.Context, profile fleet.ProfileName) (Retried, error) {
	m, err := c.rpc.LocalRetry(ctx, &fleetv1.LocalRetryRequest{Profile: string(profile)})
	return Retried{Target: refOf(m.GetTarget()), Waited: reasonOf(m.GetWaited())}, c.explain(err)
}

// Boot lets the generation be booted that waits for that, and says which that is.
func (c *Client) Boot(ctx context.Context, profile fleet.ProfileName) (fleet.Ref, error) {
	m, err := c.rpc.Boot(ctx, &fleetv1.BootRequest{Profile: string(profile)})
	return refOf(m.GetTarget()), c.explain(err)
}

// Logs copies the output of the newest activation to w.
func (c *Client) Logs(ctx context.Context, profile fleet.ProfileName, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.rpc.Logs(ctx, &fleetv1.LogsRequest{Profile: string(profile)})
	if err != nil {
		return c.explain(err)
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.explain(err)
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return fmt.Errorf("writing log: %w", err)
		}
	}
}

func (c *Client) explain(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := refusal.Of(err); ok {
		if is := answers[status.Code(err)]; is != nil {
			return ui.WithHint(fmt.Errorf("%w: %s", is, r.Message), r.Hint)
		}
		return ui.WithHint(errors.New(r.Message), r.Hint)
	}
	if status.Code(err) == codes.Unavailable && c.closed.Load() {
		return ui.WithHint(fmt.Errorf("%w to ask the agent: %s is for root and the agent's own user", ErrNotAllowed, c.path), "use sudo")
	}
	if status.Code(err) == codes.Unavailable {
		return fmt.Errorf("%w: %s does not answer: %s", ErrNoAgent, c.path, refusal.Cause(status.Convert(err).Message()))
	}
	return fmt.Errorf("asking the agent: %w", err)
}
