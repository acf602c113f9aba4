// Package sync talks to the coordinator: it is the only part of the agent that
// knows gRPC and the wire's types. It holds one connection for the stream of
// hints and all calls, opened again after a failure by whoever calls next;
// waiting between attempts is Watch's.
package sync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

const (
	// maxMessageBytes bounds an answer, and a piece of a blob.
	maxMessageBytes = 4 << 20
	// maxRootsBytes bounds one with a chain of trust roots, the longest there is.
	maxRootsBytes = 16 << 20
	// maxHeaderBytes bounds its headers; a refusal is in them, twice.
	maxHeaderBytes = 64 << 10
	// dialTimeout bounds one attempt at one address.
	dialTimeout = 10 * time.Second
	// callTimeout bounds a call that isn't a stream.
	callTimeout = 30 * time.Second
	// bufferBytes of a connection, each way: hints and reports are small, and
	// an idle agent should weigh nothing.
	bufferBytes = 4 << 10
)

// ErrUnreachable is wrapped by errors of calls that never got an answer.
var ErrUnreachable = errors.New("coordinator unreachable")

// RefusedError is an answer: the coordinator does not do what was asked.
type RefusedError struct {
	Reason fleet.Reason
}

// Error says what the coordinator said.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("coordinator refuses (%s): %s", e.Reason.Code, e.Reason.Message)
}

// Config of a Client.
type Config struct {
	// Addresses of the coordinator, host:port, tried in order.
	Addresses []string
	// TLS of the host identity; asked for its certificate at each handshake.
	TLS *tls.Config
	Log *slog.Logger
	// Dial opens a TCP connection; default a net.Dialer's.
	Dial Dial
	// Hello goes out with each stream.
	Hello Hello
}

// Dial opens a TCP connection to host:port.
type Dial func(ctx context.Context, address string) (net.Conn, error)

// Hello says who watches.
type Hello struct {
	Version, InstanceID, BootID, RunID string
	Capabilities                       []string
}

// Client is the coordinator as seen from a host. It is safe for concurrent use.
type Client struct {
	config Config

	mu   sync.Mutex
	conn *grpc.ClientConn
	// first is where in Addresses the next connection begins: after one that
	// brought no answer, behind its first. Who answers there, and is not the
	// coordinator, must not keep hosts from the one that is.
	first int
}

// New makes a client; it connects when it is first needed.
func New(c Config) *Client { return &Client{config: c} }

// Close ends all calls and streams.
func (c *Client) Close() { c.Reset() }

// Reset closes the connection, so that the next call opens one anew, with
// today's certificate.
func (c *Client) Reset() {
	c.mu.Lock()
	conn := c.conn
	c.conn = nil
	c.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// shared returns the connection, opening it if there is none.
func (c *Client) shared() (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn, nil
	}
	conn, err := dial(from(c.config.Addresses, c.first), c.config.TLS, c.config.Dial)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	return conn, nil
}

// drop closes conn where it is still the shared one.
func (c *Client) drop(conn *grpc.ClientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
		c.first++
		_ = conn.Close()
	}
}

// from is addresses with another one first.
func from(addresses []string, first int) []string {
	if len(addresses) == 0 {
		return nil
	}
	first %= len(addresses)
	return append(slices.Clone(addresses[first:]), addresses[:first]...)
}

// do makes one call over the shared connection, which is dropped when it
// brings no answer.
func (c *Client) do(ctx context.Context, call func(context.Context, *grpc.ClientConn) error) error {
	conn, err := c.shared()
	if err != nil {
		return err
	}
	err = explain(ctx, call(ctx, conn))
	if errors.Is(err, ErrUnreachable) {
		c.drop(conn)
	}
	return err
}

// dial makes a connection that is opened at its first call. The addresses are
// tried in order; names are resolved by the system at each attempt.
func dial(addresses []string, config *tls.Config, open Dial) (*grpc.ClientConn, error) {
	if open == nil {
		d := net.Dialer{Timeout: dialTimeout}
		open = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	conn, err := grpc.NewClient("passthrough:///coordinator",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var errs []error
			for _, a := range addresses {
				conn, err := open(ctx, a)
				if err == nil {
					return conn, nil
				}
				errs = append(errs, err)
			}
			return nil, errors.Join(errs...)
		}),
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		// A failed connection is thrown away whole; this only bounds what it
		// does until then.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: time.Second, Multiplier: 2, MaxDelay: 2 * time.Minute},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting to the coordinator: %w", err)
	}
	return conn, nil
}

// withRoots lets the answer to one call be as long as one with trust roots.
func withRoots() grpc.CallOption { return grpc.MaxCallRecvMsgSize(maxRootsBytes) }

// explain turns a gRPC error into one of this package's, and leaves others.
func explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if r, ok := refusal.Of(err); ok {
		switch r.Code { //nolint:exhaustive // All others are answers.
		case refusal.Stopping:
			return fmt.Errorf("%w: %w", ErrUnreachable, inOrder(r.Message))
		case refusal.Replaced:
			return fmt.Errorf("%w: %s", ErrUnreachable, r.Message)
		}
		return &RefusedError{Reason: r}
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() { //nolint:exhaustive // All others are answers.
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return fmt.Errorf("%w: %s", ErrUnreachable, refusal.Plain(refusal.Cause(s.Message())))
	case codes.ResourceExhausted:
		// By gRPC on this side: a message that is longer than is taken.
		return fmt.Errorf("%w: %s", ErrAnswer, refusal.Plain(s.Message()))
	}
	return &RefusedError{Reason: fleet.Reason{
		Code: fleet.ReasonUnreachable, Message: fmt.Sprintf("%s: %s", s.Code(), refusal.Plain(s.Message())),
		Hint: "look at the coordinator's log and events",
	}}
}

// ReasonOf explains an error of a call to people.
func ReasonOf(err error) fleet.Reason {
	if err == nil {
		return fleet.Reason{}
	}
	if r := (*RefusedError)(nil); errors.As(err, &r) {
		return r.Reason
	}
	if errors.Is(err, ErrAnswer) {
		return fleet.Reason{
			Code: fleet.ReasonRefused, Message: err.Error(),
			Hint: "the coordinator is broken or taken over: look at it; this host keeps what it has",
		}
	}
	return fleet.Reason{
		Code: fleet.ReasonUnreachable, Message: err.Error(),
		Hint: "check that the coordinator runs and that this host can connect to it",
	}
}

// Strange says whether the coordinator, or something in its place, takes connections and
// fails the handshake, within that time for each address.
func (c *Client) Strange(ctx context.Context, within time.Duration) bool {
	for _, address := range c.config.Addresses {
		if c.strange(ctx, address, within) {
			return true
		}
	}
	return false
}

func (c *Client) strange(ctx context.Context, address string, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	open := c.config.Dial
	if open == nil {
		var d net.Dialer
		open = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	raw, err := open(ctx, address)
	if err != nil {
		return false
	}
	conn := tls.Client(raw, c.config.TLS)
	err = conn.HandshakeContext(ctx)
	_ = conn.Close() // Nothing was said.
	return err != nil
}
