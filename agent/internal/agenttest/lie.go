package agenttest

import (
	"context"
	"crypto/tls"
	"path"

	"google.golang.org/grpc"
)

// Lie is how a coordinator in the wrong hands answers. What it leaves out stays
// honest.
type Lie struct {
	// Answer gets a request, the honest answer and its error, and returns what is
	// sent instead.
	Answer func(method string, req, honest any, err error) (any, error)
	// Stream serves a stream; honest would serve it as it should be.
	Stream func(method string, s grpc.ServerStream, honest func() error) error
}

// Lie has all calls from now on answered by a lie; the zero Lie is the truth.
func (c *Coordinator) Lie(l Lie) { c.change(func() { c.lie = l }) }

// Lying says whether a lie is told.
func (c *Coordinator) Lying() bool {
	l := c.lying()
	return l.Answer != nil || l.Stream != nil
}

// Identify has the coordinator show another certificate from now on, to those
// who connect anew; it returns the one before.
func (c *Coordinator) Identify(cert tls.Certificate) (before tls.Certificate) {
	c.change(func() { before, c.cert = c.cert, cert })
	return before
}

// Sent is how many bytes were sent, all in all, TLS included.
func (c *Coordinator) Sent() uint64 { return c.sent.Load() }

func (c *Coordinator) lying() Lie {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lie
}

func (c *Coordinator) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if l := c.lying(); l.Answer != nil {
		return l.Answer(path.Base(info.FullMethod), req, resp, err)
	}
	return resp, err
}

func (c *Coordinator) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	honest := func() error { return handler(srv, s) }
	if l := c.lying(); l.Stream != nil {
		return l.Stream(path.Base(info.FullMethod), s, honest)
	}
	return honest()
}
