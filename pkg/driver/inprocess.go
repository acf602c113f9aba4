package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

const (
	// pipeBytes of the in-process connection, each way.
	pipeBytes = 64 << 10
	// idleTimeout after which the connection and its buffers are given up until
	// the next call: a driver is called for seconds, once in days.
	idleTimeout = time.Second
)

// inProcess remembers the driver for its extra abilities, which the contract
// of plugins does not have.
type inProcess struct {
	Driver

	builtin Driver
}

// InProcess serves d to this process over the contract of plugins. The caller
// MUST call stop when no call is under way any more.
func InProcess(d Driver) (connected Driver, stop func() error, err error) {
	listener := bufconn.Listen(pipeBytes)
	server := grpc.NewServer()
	Serve(server, d)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///driver",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithIdleTimeout(idleTimeout),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		server.Stop()
		return nil, nil, fmt.Errorf("connecting to built-in driver: %w", errors.Join(err, <-done))
	}
	return &inProcess{Driver: Connect(conn), builtin: d}, func() error {
		err := conn.Close()
		server.Stop()
		if serr := <-done; serr != nil && !errors.Is(serr, grpc.ErrServerStopped) {
			err = errors.Join(err, serr)
		}
		return err
	}, nil
}
