package agenttest

import (
	"net"
	"sync/atomic"
	"syscall"
)

// listener counts what its connections write, and gives its address back when it
// is closed.
type listener struct {
	net.Listener
	sent *atomic.Uint64
}

// Accept returns the next connection.
func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{conn, l.sent}, nil
}

// Close closes the socket wherever it is. A child that another test starts has
// all sockets of this process from its fork to its exec, and one that listens
// would keep the address from who listens on it next.
func (l listener) Close() error {
	if t, ok := l.Listener.(*net.TCPListener); ok {
		if raw, err := t.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
		}
	}
	return l.Listener.Close()
}

type countedConn struct {
	net.Conn
	sent *atomic.Uint64
}

// Write writes, and counts.
func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(uint64(n)) //nolint:gosec // Not negative.
	return n, err
}
