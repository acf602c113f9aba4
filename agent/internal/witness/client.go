package witness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Put asks the witness at host:port over a connection of its own. nil is its yes; ErrNo
// its no; any other error means that nobody answered who is that witness. config is
// pki.WitnessClientTLS. Nothing is tried again.
func Put(ctx context.Context, config *tls.Config, address string, ask Ask) (err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeWithin+answerWithin)
	defer cancel()
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: config}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("asking a witness: %w", err)
	}
	defer func() { _ = conn.Close() }() // All was said.
	// Whoever waits no longer has the connection fail.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, string(ask)+"\n"); err != nil {
		return fmt.Errorf("asking a witness: %w", err)
	}
	line, err := readLine(conn, maxAnswer)
	if err != nil {
		return fmt.Errorf("asking a witness: %w", errors.Join(err, context.Cause(ctx)))
	}
	return answered(line)
}
