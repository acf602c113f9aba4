package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/pki"
)

const (
	// maxStrangers bounds the connections without a certificate: hosts that
	// enrol, which takes one call, and whoever finds the port. strangersOfOne
	// bounds those of one address, so that it does not keep others from enrolling.
	maxStrangers   = 64
	strangersOfOne = 16
	// strangerLife is how long such a connection may last.
	strangerLife = 30 * time.Second
	// strangerBytes is how much may come over one: many times an enrolment.
	strangerBytes = 128 << 10
	// hostConns is how many connections one key of a host may have: that of its
	// stream, one that proves an activation, and those that a flapping network
	// left. Other identities may have callerConns: an operator's programs share
	// its key.
	hostConns   = 8
	callerConns = 64
)

var (
	errStrangers = errors.New("too many connections without a certificate")
	errTalkative = errors.New("more bytes than an enrolment has")
)

// guard bounds what peers make the server hold in memory. The authorizer comes
// too late for that: gRPC reads a request before it asks who sent it.
type guard struct {
	credentials.TransportCredentials
	stopping   context.Context //nolint:containedctx // The life of the server, not of a call.
	handshakes *handshakes

	mu        sync.Mutex // guards what follows
	strangers int
	from      map[string]int        // strangers by address
	callers   map[string][]*guarded // by identity and key, the oldest first
}

// newGuard ends all handshakes when stopping does.
func newGuard(stopping context.Context, c credentials.TransportCredentials) *guard {
	return &guard{
		TransportCredentials: c, stopping: stopping, handshakes: newHandshakes(),
		from: map[string]int{}, callers: map[string][]*guarded{},
	}
}

// ServerHandshake refuses strangers beyond maxStrangers. A key with more than
// its share of connections loses its oldest: it may be one that only this side
// still has.
func (g *guard) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.handshake(raw)
	if err != nil {
		return conn, info, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok {
		return conn, info, nil
	}
	// Whether the certificate has ended does not matter here.
	peer, known, err := pki.PeerOf(t.State, time.Time{})
	switch {
	case err != nil:
		return nil, nil, errors.Join(err, conn.Close())
	case !known:
		c, err := g.stranger(conn, addressOf(raw))
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("connection of %s: %w", raw.RemoteAddr(), err), conn.Close())
		}
		return c, info, nil
	case peer.Kind == pki.KindHost:
		return g.caller(conn, keyOf(peer), hostConns), info, nil
	}
	return g.caller(conn, keyOf(peer), callerConns), info, nil
}

// handshake is the handshake itself, bounded in bytes and in turns. Its time
// is bounded by who calls: gRPC sets a deadline on the connection.
func (g *guard) handshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeout(g.stopping, handshakeTimeout)
	defer cancel()
	end, err := g.handshakes.begin(ctx, addressOf(raw))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("handshake with %s: %w", raw.RemoteAddr(), err), raw.Close())
	}
	defer end()
	// A peer that says nothing must not hold up the server's end.
	defer context.AfterFunc(g.stopping, func() { _ = raw.Close() })() // Its reader is told.
	// Its turn is short: others of the address may wait for it. gRPC has its own
	// deadline until the end of the handshake, and takes this one away then.
	if err := raw.SetDeadline(time.Now().Add(handshakeTurn)); err != nil { //nolint:forbidigo // The network's own time.
		return nil, nil, errors.Join(fmt.Errorf("handshake with %s: %w", raw.RemoteAddr(), err), raw.Close())
	}
	o := &opening{Conn: raw}
	conn, info, err := g.TransportCredentials.ServerHandshake(o)
	o.over.Store(true)
	return conn, info, err //nolint:wrapcheck // gRPC logs it.
}

// addressOf is a connection's other end without its port.
func addressOf(c net.Conn) string {
	addr := c.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// Clone shares the counts.
func (g *guard) Clone() credentials.TransportCredentials { return g }

func (g *guard) stranger(conn net.Conn, from string) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.strangers >= maxStrangers || g.from[from] >= strangersOfOne {
		return nil, errStrangers
	}
	g.strangers++
	g.from[from]++
	c := &guarded{Conn: conn}
	limit := &limited{guarded: c}
	limit.left.Store(strangerBytes)
	var end *time.Timer // guarded by mu, like all that release touches
	c.release = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		end.Stop()
		g.strangers--
		if g.from[from]--; g.from[from] == 0 {
			delete(g.from, from)
		}
	})
	end = time.AfterFunc(strangerLife, func() { _ = c.Close() }) // Nobody is there to be told.
	return limit, nil
}

func (g *guard) caller(conn net.Conn, key string, most int) net.Conn {
	c := &guarded{Conn: conn}
	c.release = sync.OnceFunc(func() { g.forget(key, c) })
	g.mu.Lock()
	all := append(g.callers[key], c)
	g.callers[key] = all
	g.mu.Unlock()
	if len(all) > most {
		_ = all[0].Close() // Nobody is there to be told.
	}
	return c
}

func (g *guard) forget(key string, c *guarded) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A new slice: caller reads the one that it appended to without the lock.
	rest := slices.DeleteFunc(slices.Clone(g.callers[key]), func(o *guarded) bool { return o == c })
	if len(rest) == 0 {
		delete(g.callers, key)
		return
	}
	g.callers[key] = rest
}

// cutGrace is how long a connection that is cut stays, so that its streams can
// be told why. No new call is let through meanwhile.
const cutGrace = 500 * time.Millisecond

// cut closes the connections of all callers whose key gone picks, and returns
// how many. A key is named as keyOf does.
func (g *guard) cut(gone func(key string) bool) int {
	var conns []*guarded
	g.mu.Lock()
	for key, all := range g.callers {
		if gone(key) {
			conns = append(conns, all...)
		}
	}
	g.mu.Unlock()
	for _, c := range conns {
		time.AfterFunc(cutGrace, func() { _ = c.Close() }) // Nobody is there to be told.
	}
	return len(conns)
}

// guarded is a connection that is counted until it is closed.
type guarded struct {
	net.Conn
	release func()
}

// Close closes the connection and counts it no longer.
func (c *guarded) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// limited is a stranger's connection.
type limited struct {
	*guarded
	left atomic.Int64
}

// Read fails once too much came.
func (c *limited) Read(p []byte) (int, error) {
	n, err := c.guarded.Read(p)
	if c.left.Add(-int64(n)) < 0 {
		return 0, errTalkative
	}
	return n, err
}
