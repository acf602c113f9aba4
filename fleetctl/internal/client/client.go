// Package client is fleetctl's side of the coordinator's OperatorService: the
// connection, its errors in the operator's terms, and the conversion between
// messages and the types of package fleet.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Config says whom to call and as whom.
type Config struct {
	// Address of the coordinator, host:port.
	Address string
	Fleet   fleet.FleetID
	// CAs that the coordinator's certificate may be of.
	CAs []*x509.Certificate
	// Identity is the operator's certificate with its key.
	Identity tls.Certificate
	Now      func() time.Time
	// CallTimeout bounds calls that have no deadline; 0 means 20 s.
	CallTimeout time.Duration
	// RetryPause is the first pause before an upload is taken up again; 0 means
	// 500 ms. It grows, with jitter.
	RetryPause time.Duration
}

// Client is a connection to the coordinator. It is safe for concurrent use.
type Client struct {
	rpc       fleetv1.OperatorServiceClient
	conn      *grpc.ClientConn
	address   string
	timeout   time.Duration
	pause     time.Duration
	handshake *handshakes
}

// New prepares a connection and begins to open it; the first call waits for it.
func New(cfg Config) (*Client, error) {
	c := &Client{address: cfg.Address, timeout: cfg.CallTimeout, pause: cfg.RetryPause, handshake: &handshakes{}}
	if c.timeout == 0 {
		c.timeout = 20 * time.Second
	}
	if c.pause == 0 {
		c.pause = 500 * time.Millisecond
	}
	creds := credentials.NewTLS(pki.ClientTLS(pki.ClientConfig{
		Certificate: func() (*tls.Certificate, error) { return &cfg.Identity, nil },
		CAs:         func() []*x509.Certificate { return cfg.CAs },
		Fleet:       cfg.Fleet,
		Now:         cfg.Now,
	}))
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 200*time.Millisecond, 5*time.Second
	conn, err := grpc.NewClient("passthrough:///"+cfg.Address,
		grpc.WithTransportCredentials(watchedCreds{creds, c.handshake}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 10 * time.Second}),
		// Servers allow a ping every five minutes by default; what matters is
		// that unacknowledged data ends a dead connection after Timeout.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 6 * time.Minute, Timeout: 20 * time.Second}),
		callOptions(),
	)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", cfg.Address, err)
	}
	// What is done before the first call, such as asking nix, takes longer.
	conn.Connect()
	c.conn, c.rpc = conn, fleetv1.NewOperatorServiceClient(conn)
	return c, nil
}

// callOptions are those of all calls that say nothing else.
func callOptions() grpc.DialOption {
	return grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage))
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// call gives ctx the default deadline.
func (c *Client) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// handshakes remembers how the newest TLS handshake went, because gRPC reports
// only text.
type handshakes struct {
	mu  sync.Mutex // guards err
	err error
}

func (h *handshakes) set(err error) {
	h.mu.Lock()
	h.err = err
	h.mu.Unlock()
}

func (h *handshakes) last() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// watchedCreds are credentials whose handshakes are remembered.
type watchedCreds struct {
	credentials.TransportCredentials
	handshakes *handshakes
}

// ClientHandshake remembers its outcome.
func (w watchedCreds) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, conn)
	w.handshakes.set(err)
	return out, info, err
}

// Clone keeps the memory.
func (w watchedCreds) Clone() credentials.TransportCredentials {
	return watchedCreds{w.TransportCredentials.Clone(), w.handshakes}
}
