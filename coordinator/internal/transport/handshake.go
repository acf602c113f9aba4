package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// handshakeBytes is how much may come over a connection until its handshake
	// is over: several times a hello with a certificate of the fleet.
	handshakeBytes = 16 << 10
	// handshakesOfOne is how many handshakes of one address go on at a time. More
	// wait for their turn, unread, so that who begins many delays only itself, and
	// whoever shares its address behind a proxy.
	handshakesOfOne = 64
	// handshakeTurn is how long one may take once it has its turn: agents give up
	// then too.
	handshakeTurn = 10 * time.Second
	// maxHandshakes bounds all that go on or wait.
	maxHandshakes = 32 << 10
)

var (
	errHandshakes    = errors.New("too many handshakes at once")
	errLongHandshake = errors.New("more bytes than a handshake has")
)

// handshakes bounds what peers cost before anybody knows who they are.
type handshakes struct {
	mu    sync.Mutex // guards what follows
	count int
	turns map[string]*turns // by address
}

// turns are those of one address.
type turns struct {
	free  chan struct{}
	users int // guarded by handshakes.mu
}

func newHandshakes() *handshakes { return &handshakes{turns: map[string]*turns{}} }

// begin waits until a handshake with an address may begin. The caller must
// call end.
func (h *handshakes) begin(ctx context.Context, address string) (end func(), err error) {
	h.mu.Lock()
	if h.count >= maxHandshakes {
		h.mu.Unlock()
		return nil, errHandshakes
	}
	h.count++
	t := h.turns[address]
	if t == nil {
		t = &turns{free: make(chan struct{}, handshakesOfOne)}
		h.turns[address] = t
	}
	t.users++
	h.mu.Unlock()
	leave := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.count--
		if t.users--; t.users == 0 {
			delete(h.turns, address)
		}
	}
	select {
	case t.free <- struct{}{}:
		return func() {
			<-t.free
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("waiting for a turn: %w", context.Cause(ctx))
	}
}

// opening is a connection whose handshake is not over.
type opening struct {
	net.Conn
	over atomic.Bool
	read int // of the handshake's one reader
}

// Read fails once more came than a handshake has.
func (o *opening) Read(p []byte) (int, error) {
	n, err := o.Conn.Read(p)
	if o.over.Load() {
		return n, err
	}
	if o.read += n; o.read > handshakeBytes {
		return 0, errLongHandshake
	}
	return n, err
}
