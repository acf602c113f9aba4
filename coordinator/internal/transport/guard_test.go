package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/pki"
)

// shown are credentials of a peer that showed these certificates.
type shown struct {
	credentials.TransportCredentials
	certs []*x509.Certificate
}

func (s shown) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return raw, credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: s.certs}}, nil
}

// from is a connection from an address.
type from struct {
	net.Conn
	addr string
}

func (f from) RemoteAddr() net.Addr { return &net.UnixAddr{Name: f.addr, Net: "test"} }

// open makes a connection through the guard, from an address that no other
// has; far is the peer's end.
func open(t *testing.T, g *guard) (near, far net.Conn, err error) {
	t.Helper()
	return openFrom(t, g, fmt.Sprintf("10.0.0.%d:1", peers.Add(1)))
}

var peers atomic.Int64

func openFrom(t *testing.T, g *guard, addr string) (near, far net.Conn, err error) {
	t.Helper()
	near, far = net.Pipe()
	t.Cleanup(func() { _ = far.Close() })
	near, _, err = g.ServerHandshake(from{near, addr})
	return near, far, err
}

func closed(far net.Conn) bool {
	_ = far.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := far.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

func TestGuardBoundsStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t.Context(), shown{})
		var near, far []net.Conn
		for range maxStrangers {
			n, f, err := open(t, g)
			if err != nil {
				t.Fatal(err)
			}
			near, far = append(near, n), append(far, f)
		}
		if _, f, err := open(t, g); !errors.Is(err, errStrangers) || !closed(f) {
			t.Fatalf("one too many: %v", err)
		}
		if err := errors.Join(near[0].Close(), near[0].Close()); err != nil {
			t.Log(err) // A second Close must only not be counted twice.
		}
		if _, _, err := open(t, g); err != nil {
			t.Fatalf("after one has gone: %v", err)
		}
		if _, _, err := open(t, g); !errors.Is(err, errStrangers) {
			t.Fatalf("one too many again: %v", err)
		}
		time.Sleep(strangerLife + time.Second)
		synctest.Wait()
		for i, f := range far {
			if !closed(f) {
				t.Fatalf("connection %d outlives its time", i)
			}
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.strangers != 0 {
			t.Errorf("%d strangers are still counted", g.strangers)
		}
	})
}

func TestGuardBoundsBytesOfStrangers(t *testing.T) {
	g := newGuard(t.Context(), shown{})
	near, far, err := open(t, g)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.CopyN(far, zeros{}, 2*strangerBytes)
	}()
	n, err := io.Copy(io.Discard, near)
	if !errors.Is(err, errTalkative) || n > strangerBytes {
		t.Errorf("read %d bytes: %v", n, err)
	}
	if err := near.Close(); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// showing are credentials of a peer with a certificate of an identity, over a
// key of its own.
func showing(t *testing.T, id pki.Identity) shown {
	t.Helper()
	now := time.Now()
	ca, err := pki.NewCA("first", now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(id, key.Public(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return shown{certs: []*x509.Certificate{leaf}}
}

func TestGuardBoundsConnectionsOfAHost(t *testing.T) {
	for _, c := range []struct {
		id   pki.Identity
		most int
	}{
		{pki.HostIdentity("first", "pyrite"), hostConns},
		{pki.OperatorIdentity("first", "cameron"), callerConns},
	} {
		g := newGuard(t.Context(), showing(t, c.id))
		var near, far []net.Conn
		for range c.most + 2 {
			n, f, err := open(t, g)
			if err != nil {
				t.Fatal(err)
			}
			near, far = append(near, n), append(far, f)
		}
		for i, f := range far {
			if want := i < 2; closed(f) != want {
				t.Errorf("%s: connection %d: closed is not %t", c.id, i, want)
			}
		}
		for _, n := range near {
			_ = n.Close()
		}
		if len(g.callers) != 0 {
			t.Errorf("%s: %d connections are still counted", c.id, len(g.callers))
		}
	}
}
