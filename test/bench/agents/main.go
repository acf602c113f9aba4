//go:build linux

// Command agents holds the connections of many agents: each its own mTLS
// connection with its own certificate and one open Watch stream. It is driven
// over standard input, one word a line, and answers each with one line of JSON
// (setup.Answer).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
	"github.com/cameronraysmith/fleet/test/bench/setup"
)

// dialers is how many agents connect at a time.
const dialers = 64

// perSource is how many connections leave from one loopback address, well
// within its ephemeral ports.
const perSource = 4000

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	path := flag.String("setup", "", "file of the throw-away fleet")
	addr := flag.String("connect", "", "address of the server")
	leaves := flag.String("hosts", "", "file of the agents' certificates: one agent for each")
	flag.Parse()
	if *path == "" || *addr == "" || *leaves == "" {
		return errors.New("-setup, -hosts and -connect are needed; make bench starts this program")
	}
	s, err := setup.Read[*setup.Setup](*path)
	if err != nil {
		return err
	}
	hosts, err := setup.Read[[]setup.Leaf](*leaves)
	if err != nil {
		return err
	}
	h := &holder{received: make([]atomic.Int64, len(hosts)), woken: make(chan struct{}, 1)}
	for i, leaf := range hosts {
		conn, err := dial(s, leaf, i, *addr)
		if err != nil {
			return err
		}
		h.conns = append(h.conns, conn)
	}
	defer h.close()
	return h.serve(ctx)
}

// dial makes a lazy connection.
func dial(s *setup.Setup, leaf setup.Leaf, i int, addr string) (*grpc.ClientConn, error) {
	tc, err := s.ClientTLS(leaf)
	if err != nil {
		return nil, err
	}
	source := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/perSource))}
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(tc)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: source}).DialContext(ctx, "tcp", addr)
		}))
}

type holder struct {
	conns []*grpc.ClientConn
	// received holds for each agent when its last wake-up came (setup.Clock).
	received []atomic.Int64
	armed    atomic.Int64 // wake-ups before this moment do not count
	missing  atomic.Int64
	woken    chan struct{} // missing reached zero
	readers  sync.WaitGroup
	failures atomic.Int64
	why      atomic.Pointer[error] // of the first
}

func (h *holder) serve(ctx context.Context) error {
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var a setup.Answer
		switch cmd := in.Text(); cmd {
		case setup.CmdConnect:
			start := setup.Clock()
			if err := h.connect(ctx); err != nil {
				return err
			}
			a.Connecting = time.Duration(setup.Clock() - start)
		case setup.CmdArm:
			h.missing.Store(int64(len(h.conns)))
			h.armed.Store(setup.Clock())
		case setup.CmdCollect:
			timeout := time.NewTimer(time.Minute)
			select {
			case <-h.woken:
				timeout.Stop()
			case <-timeout.C:
				err := fmt.Errorf("%d of %d agents were not woken within a minute (%d streams ended)", h.missing.Load(), len(h.conns), h.failures.Load())
				if why := h.why.Load(); why != nil {
					err = fmt.Errorf("%w, the first: %w", err, *why)
				}
				return err
			}
			for i := range h.received {
				a.Received = append(a.Received, h.received[i].Load())
			}
		default:
			return fmt.Errorf("unknown command %q", cmd)
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return in.Err()
}

func (h *holder) close() {
	for _, conn := range h.conns {
		_ = conn.Close()
	}
	h.readers.Wait()
}

// connect opens every connection and stream and waits for each hello.
func (h *holder) connect(ctx context.Context) error {
	g, _ := errgroup.WithContext(ctx)
	g.SetLimit(dialers)
	for i, conn := range h.conns {
		g.Go(func() error {
			stream, err := fleetv1.NewHostServiceClient(conn).Watch(ctx, &fleetv1.WatchRequest{
				AgentVersion: "bench", InstanceId: fmt.Sprintf("instance-%05d", i), BootId: fmt.Sprintf("boot-%05d", i),
			})
			if err != nil {
				return fmt.Errorf("agent %d: opening its stream: %w", i, err)
			}
			if hello, err := stream.Recv(); err != nil {
				return fmt.Errorf("agent %d: waiting for the hello: %w", i, err)
			} else if hello.GetReason() != fleetv1.WakeReason_WAKE_REASON_HELLO {
				return fmt.Errorf("agent %d: got %s for a hello", i, hello.GetReason())
			}
			h.readers.Go(func() { h.read(i, stream) })
			return nil
		})
	}
	return g.Wait()
}

func (h *holder) read(i int, stream grpc.ServerStreamingClient[fleetv1.WatchResponse]) {
	for {
		m, err := stream.Recv()
		if err != nil {
			if h.failures.Add(1) == 1 {
				h.why.Store(&err)
			}
			return
		}
		if m.GetReason() != fleetv1.WakeReason_WAKE_REASON_DESIRED {
			continue
		}
		now := setup.Clock()
		if h.received[i].Load() >= h.armed.Load() {
			continue // the first wake-up counts
		}
		h.received[i].Store(now)
		if h.missing.Add(-1) == 0 {
			h.woken <- struct{}{}
		}
	}
}
