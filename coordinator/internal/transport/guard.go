package transport

import (
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
	// enrol, which takes one call, and whoever finds the port.
	maxStrangers = 64
	// strangerLife is how long such a connection may last.
	strangerLife = 30 * time.Second
	// strangerBytes is how much may come over one: many times an enrolment.
	strangerBytes = 128 << 10
	// hostConns is how many connections one host may have: that of its stream,
	// one that proves an activation, and those that a flapping network left.
	hostConns = 8
)

var (
	errStrangers = errors.New("too many connections without a certificate")
	errTalkative = errors.New("more bytes than an enrolment has")
)

// guard bounds what peers make the server hold in memory. The authorizer comes
// too late for that: gRPC reads a request before it asks who sent it.
type guard struct {
	credentials.TransportCredentials

	mu        sync.Mutex // guards what follows
	strangers int
	hosts     map[string][]*guarded // by identity, the oldest first
}

func newGuard(c credentials.TransportCredentials) *guard {
	return &guard{TransportCredentials: c, hosts: map[string][]*guarded{}}
}

// ServerHandshake refuses strangers beyond maxStrangers. A host that opens more
// than hostConns loses its oldest: it may be one that only this side still has.
func (g *guard) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.TransportCredentials.ServerHandshake(raw)
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
		c, err := g.stranger(conn)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("connection of %s: %w", raw.RemoteAddr(), err), conn.Close())
		}
		return c, info, nil
	case peer.Kind == pki.KindHost:
		return g.host(conn, peer.Path()), info, nil
	}
	return conn, info, nil
}

// Clone shares the counts.
func (g *guard) Clone() credentials.TransportCredentials { return g }

func (g *guard) stranger(conn net.Conn) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.strangers >= maxStrangers {
		return nil, errStrangers
	}
	g.strangers++
	c := &guarded{Conn: conn}
	limit := &limited{guarded: c}
	limit.left.Store(strangerBytes)
	var end *time.Timer // guarded by mu, like all that release touches
	c.release = sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		end.Stop()
		g.strangers--
	})
	end = time.AfterFunc(strangerLife, func() { _ = c.Close() }) // Nobody is there to be told.
	return limit, nil
}

func (g *guard) host(conn net.Conn, path string) net.Conn {
	c := &guarded{Conn: conn}
	c.release = sync.OnceFunc(func() { g.forget(path, c) })
	g.mu.Lock()
	all := append(g.hosts[path], c)
	g.hosts[path] = all
	g.mu.Unlock()
	if len(all) > hostConns {
		_ = all[0].Close() // Nobody is there to be told.
	}
	return c
}

func (g *guard) forget(path string, c *guarded) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A new slice: host reads the one that it appended to without the lock.
	rest := slices.DeleteFunc(slices.Clone(g.hosts[path]), func(o *guarded) bool { return o == c })
	if len(rest) == 0 {
		delete(g.hosts, path)
		return
	}
	g.hosts[path] = rest
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
