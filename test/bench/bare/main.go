//go:build linux

// Command bare is the yardstick: as little as grpc-go needs, with its
// defaults, to stream the bytes that a coordinator streams to as many agents
// over the same TLS. No store, no registry, no authorization.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
	"github.com/cameronraysmith/fleet/test/bench/setup"
)

type server struct {
	fleetv1.UnimplementedHostServiceServer
	fleetv1.UnimplementedOperatorServiceServer

	mu      sync.Mutex
	streams map[chan struct{}]bool
}

// Watch streams a hint at each wake-up.
func (s *server) Watch(_ *fleetv1.WatchRequest, stream grpc.ServerStreamingServer[fleetv1.WatchResponse]) error {
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	s.streams[wake] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, wake)
		s.mu.Unlock()
	}()
	if err := stream.Send(&fleetv1.WatchResponse{Reason: fleetv1.WakeReason_WAKE_REASON_HELLO}); err != nil {
		return err
	}
	for {
		select {
		case <-wake:
			if err := stream.Send(&fleetv1.WatchResponse{Reason: fleetv1.WakeReason_WAKE_REASON_DESIRED}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// Commit wakes all streams.
func (s *server) Commit(context.Context, *fleetv1.CommitRequest) (*fleetv1.CommitResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for wake := range s.streams {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	return &fleetv1.CommitResponse{}, nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run() error {
	path := flag.String("setup", "", "file of the throw-away fleet")
	addr := flag.String("listen", "", "address to listen on")
	flag.Parse()
	if *path == "" || *addr == "" {
		return errors.New("-setup and -listen are needed; make bench starts this program")
	}
	s, err := setup.Read[*setup.Setup](*path)
	if err != nil {
		return err
	}
	tc, err := s.ServerTLS()
	if err != nil {
		return err
	}
	// As the coordinator, and for its reason: else thousands of connections are
	// lost now and then.
	l, err := (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", *addr)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(tc)))
	impl := &server{streams: map[chan struct{}]bool{}}
	fleetv1.RegisterHostServiceServer(srv, impl)
	fleetv1.RegisterOperatorServiceServer(srv, impl)
	return srv.Serve(l)
}
