package coordinator

import (
	"fmt"
	"net"
	"time"

	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// takeWithin bounds what is done between two connections that are taken: their
// handshakes are in goroutines of their own.
const takeWithin = 2 * time.Minute

// awake is for differences only: its monotonic part stands still while the machine
// sleeps.
func awake() time.Time { return time.Now() } //nolint:forbidigo // Not as wall time.

// statusLine says in a line how the coordinator is. It takes the locks that
// everything depends on, the store's among them, so that nobody hears of progress
// where one is held for ever.
func (co *Coordinator) statusLine() string {
	co.store.Responds()
	return fmt.Sprintf("listens on %s; %d hosts connected", co.Addr(), co.registry.CountConnected())
}

// taking is a listener whose loop says that it goes on.
type taking struct {
	net.Listener
	loop *watchdog.Loop
}

// Accept waits for the next connection.
func (t taking) Accept() (net.Conn, error) {
	t.loop.Waits()
	defer t.loop.Does("taking a connection", takeWithin)
	return t.Listener.Accept() //nolint:wrapcheck // It is the listener's.
}
