package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/pki"
)

// reading are credentials whose handshake reads until it can't.
type reading struct {
	credentials.TransportCredentials
}

func (reading) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	n, err := io.Copy(io.Discard, raw)
	if n > handshakeBytes {
		err = errors.New("it read more than a handshake has")
	}
	return nil, nil, err
}

func TestHandshakeHasFewBytes(t *testing.T) {
	g := newGuard(t.Context(), reading{})
	near, far := net.Pipe()
	defer near.Close() //nolint:errcheck // Only the reader matters.
	go func() {
		_, _ = io.CopyN(far, zeros{}, 2*handshakeBytes)
		_ = far.Close()
	}()
	if _, _, err := g.ServerHandshake(from{near, "10.0.0.1:1"}); !errors.Is(err, errLongHandshake) {
		t.Errorf("error %v", err)
	}
}

// TestHandshakesTakeTurns: whoever begins many handshakes delays only itself,
// and nobody delays the server's end.
func TestHandshakesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping, stop := context.WithCancelCause(t.Context())
		g := newGuard(stopping, reading{})
		ended := make(chan error, 3*handshakesOfOne)
		begin := func(addr string) net.Conn {
			near, far := net.Pipe()
			go func() {
				_, _, err := g.ServerHandshake(from{near, addr})
				ended <- err
			}()
			return far
		}
		var many []net.Conn
		for range handshakesOfOne + 1 {
			many = append(many, begin("10.0.0.1:1"))
			synctest.Wait()
		}
		_ = begin("10.0.0.2:1").Close()
		synctest.Wait()
		if len(ended) != 1 {
			t.Fatalf("%d handshakes ended, want that of the other address", len(ended))
		}
		if n := len(g.handshakes.turns); n != 1 {
			t.Errorf("%d addresses are remembered", n)
		}
		// The one that waited takes the place of the first that goes.
		_ = many[len(many)-1].Close()
		synctest.Wait()
		if len(ended) != 1 {
			t.Fatal("one that waits was read from")
		}
		_ = many[0].Close()
		synctest.Wait()
		if len(ended) != 3 {
			t.Fatalf("%d handshakes ended, want the first and the one that waited", len(ended))
		}
		// Those that say nothing lose their turn to who waits.
		time.Sleep(handshakeTurn + time.Second)
		synctest.Wait()
		if len(ended) != len(many)+1 {
			t.Errorf("%d of %d handshakes ended with their turn", len(ended), len(many)+1)
		}
		many = append(many, begin("10.0.0.1:1"), begin("10.0.0.1:1"))
		time.Sleep(time.Second)
		stop(errors.New("the end"))
		synctest.Wait()
		if want := len(many) + 1; len(ended) != want {
			t.Errorf("%d of %d handshakes ended with the server", len(ended), want)
		}
		if g.handshakes.count != 0 || len(g.handshakes.turns) != 0 {
			t.Errorf("%d handshakes are still counted", g.handshakes.count)
		}
	})
}

func TestGuardBoundsStrangersOfOneAddress(t *testing.T) {
	g := newGuard(t.Context(), shown{})
	var near net.Conn
	for range strangersOfOne {
		n, _, err := openFrom(t, g, "10.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		near = n
	}
	if _, _, err := openFrom(t, g, "10.0.0.1:2"); !errors.Is(err, errStrangers) {
		t.Errorf("one too many: %v", err)
	}
	if _, _, err := openFrom(t, g, "10.0.0.2:1"); err != nil {
		t.Errorf("of another address: %v", err)
	}
	_ = near.Close() // Nobody is there to be told.
	if _, _, err := openFrom(t, g, "10.0.0.1:3"); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

// TestGuardKeepsKeysApart: whoever has a replaced key of a host does not push
// the host out.
func TestGuardKeepsKeysApart(t *testing.T) {
	pyrite := pki.HostIdentity("first", "pyrite")
	g := newGuard(t.Context(), showing(t, pyrite))
	_, host, err := open(t, g)
	if err != nil {
		t.Fatal(err)
	}
	g.TransportCredentials = showing(t, pyrite)
	for range hostConns + 2 {
		if _, _, err := open(t, g); err != nil {
			t.Fatal(err)
		}
	}
	if closed(host) {
		t.Error("the host was pushed out")
	}
	for key := range g.callers {
		if !strings.HasPrefix(key, "host/pyrite ") {
			t.Errorf("counted under %q", key)
		}
	}
}
