package client

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/ui"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endless sends the same message again and again, with a pause before each.
type endless[M any] struct {
	grpc.ServerStreamingClient[M]
	ctx   context.Context
	m     func(n uint64) *M
	pause time.Duration
	sent  uint64
}

// tooLong is when a test gives up.
const tooLong = 1 << 14

func (e *endless[M]) Recv() (*M, error) {
	if e.sent++; e.sent > tooLong {
		return nil, errors.New("no bound")
	}
	if e.pause > 0 {
		select {
		case <-e.ctx.Done():
			return nil, context.Cause(e.ctx)
		case <-time.After(e.pause):
		}
	}
	return e.m(e.sent), nil
}

// lying is a coordinator whose streams have no end.
type lying struct {
	fleetv1.OperatorServiceClient
	head   func(n uint64) *fleetv1.GetHeadResponse
	host   func(n uint64) *fleetv1.ListHostsResponse
	event  func(n uint64) *fleetv1.WatchEventsResponse
	pause  time.Duration
	answer *fleetv1.ListReleasesResponse
}

func (l lying) GetHead(ctx context.Context, _ *fleetv1.GetHeadRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[fleetv1.GetHeadResponse], error) {
	return &endless[fleetv1.GetHeadResponse]{ctx: ctx, m: l.head, pause: l.pause}, nil
}

func (l lying) ListHosts(ctx context.Context, _ *fleetv1.ListHostsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[fleetv1.ListHostsResponse], error) {
	return &endless[fleetv1.ListHostsResponse]{ctx: ctx, m: l.host, pause: l.pause}, nil
}

func (l lying) WatchEvents(ctx context.Context, _ *fleetv1.WatchEventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[fleetv1.WatchEventsResponse], error) {
	return &endless[fleetv1.WatchEventsResponse]{ctx: ctx, m: l.event, pause: l.pause}, nil
}

func (l lying) ListReleases(context.Context, *fleetv1.ListReleasesRequest, ...grpc.CallOption) (*fleetv1.ListReleasesResponse, error) {
	return l.answer, nil
}

func (l lying) client() *Client {
	return &Client{rpc: l, handshake: &handshakes{}, timeout: time.Hour}
}

func always[M any](m *M) func(uint64) *M { return func(uint64) *M { return m } }

// wantTooMuch checks that an error is the refusal of too much, with advice.
func wantTooMuch(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrTooMuch) || !errors.Is(err, ErrRefused) || ui.HintOf(err) == "" {
		t.Errorf("got %v, hint %q", err, ui.HintOf(err))
	}
}

// TestEndlessAnswers: what has no end is not taken up to the end of memory.
func TestEndlessAnswers(t *testing.T) {
	profiles := &fleetv1.Host{Profiles: make([]*fleetv1.ProfileStatus, 100)}
	for i := range profiles.GetProfiles() {
		profiles.Profiles[i] = &fleetv1.ProfileStatus{}
	}
	for name, l := range map[string]lying{
		"large": {
			// The same bytes each time, so that this test does not need a gigabyte.
			head: always(&fleetv1.GetHeadResponse{Generation: &fleetv1.SignedGeneration{Generation: make([]byte, 1<<20)}}),
			host: always(&fleetv1.ListHostsResponse{Host: &fleetv1.Host{Banned: strings.Repeat("x", 1<<20)}}),
		},
		"small": {
			head: always(&fleetv1.GetHeadResponse{Generation: &fleetv1.SignedGeneration{Generation: []byte("x")}}),
			host: always(&fleetv1.ListHostsResponse{Host: &fleetv1.Host{Banned: "x"}}),
		},
		"empty": {head: always(&fleetv1.GetHeadResponse{}), host: always(&fleetv1.ListHostsResponse{})},
		"empty parts": {
			head: always(&fleetv1.GetHeadResponse{Generation: &fleetv1.SignedGeneration{}}),
			host: always(&fleetv1.ListHostsResponse{Host: profiles}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := l.client()
			if name == "large" {
				_, err := c.Head(t.Context())
				wantTooMuch(t, err)
				_, err = c.Hosts(t.Context(), "")
				wantTooMuch(t, err)
			}
			_, err := c.Hosts(t.Context(), "galena")
			wantTooMuch(t, err)
			// The rest with bounds that are reached soon.
			for _, bound := range []struct{ entries, bytes int }{{maxHeadEntries, 1 << 20}, {1000, maxHeadBytes}} {
				ctx, in, end := c.intake(t.Context(), bound.entries, bound.bytes, pace.Default)
				_, err := c.head(ctx, in)
				wantTooMuch(t, err)
				end()
				ctx, in, end = c.intake(t.Context(), bound.entries, bound.bytes, pace.Default)
				_, err = c.hosts(ctx, in, "", nil)
				wantTooMuch(t, err)
				end()
			}
		})
	}
}

// TestTrickle: what comes a byte at a time ends before the bounds do.
func TestTrickle(t *testing.T) {
	l := lying{
		head:  always(&fleetv1.GetHeadResponse{Head: "r1"}),
		host:  always(&fleetv1.ListHostsResponse{Host: &fleetv1.Host{}}),
		pause: time.Second,
	}
	for name, call := range map[string]func(context.Context, *Client) error{
		"head":  func(ctx context.Context, c *Client) error { _, err := c.Head(ctx); return err },
		"hosts": func(ctx context.Context, c *Client) error { _, err := c.Hosts(ctx, ""); return err },
		"events": func(ctx context.Context, c *Client) error {
			c.rpc = lying{event: always(&fleetv1.WatchEventsResponse{}), pause: time.Hour}
			return c.Events(ctx, EventQuery{}, func(Event) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				err := call(t.Context(), l.client())
				if !errors.Is(err, pace.ErrStalled) || !errors.Is(err, ErrUnreachable) || ui.HintOf(err) == "" {
					t.Errorf("got %v", err)
				}
				if took := time.Since(start); took > 2*time.Minute {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestEventsInOrder: a log goes up, at whatever pace while it is followed.
func TestEventsInOrder(t *testing.T) {
	up := func(n uint64) *fleetv1.WatchEventsResponse { return &fleetv1.WatchEventsResponse{Seq: n} }
	synctest.Test(t, func(t *testing.T) {
		enough := errors.New("enough")
		l := lying{event: up, pause: 24 * time.Hour}
		err := l.client().Events(t.Context(), EventQuery{Follow: true}, func(e Event) error {
			if e.Seq == 10 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Errorf("followed: %v", err)
		}
	})
	for name, event := range map[string]func(n uint64) *fleetv1.WatchEventsResponse{
		"the same":    always(&fleetv1.WatchEventsResponse{Seq: 7}),
		"not wanted":  always(&fleetv1.WatchEventsResponse{Seq: 4}),
		"the largest": always(&fleetv1.WatchEventsResponse{Seq: 1<<64 - 1}),
	} {
		l, n := lying{event: event}, 0
		err := l.client().Events(t.Context(), EventQuery{From: 5}, func(Event) error { n++; return nil })
		if !errors.Is(err, ErrRefused) || ui.HintOf(err) == "" || n > 1 {
			t.Errorf("%s: %v after %d events", name, err, n)
		}
	}
}

func TestMoreReleasesThanAsked(t *testing.T) {
	for limit, sent := range map[uint32]int{1: 2, 0: 51, 1 << 31: 1001} {
		l := lying{answer: &fleetv1.ListReleasesResponse{Releases: make([]*fleetv1.Release, sent)}}
		_, err := l.client().Releases(t.Context(), limit)
		wantTooMuch(t, err)
		l.answer.Releases = l.answer.Releases[1:]
		if list, err := l.client().Releases(t.Context(), limit); err != nil || len(list) != sent-1 {
			t.Errorf("%d releases, %v", len(list), err)
		}
	}
}

// wire is a coordinator behind a real connection.
type wire struct {
	fleetv1.UnimplementedOperatorServiceServer
	keys *fleetv1.ListHostKeysResponse
	head *fleetv1.GetHeadResponse
}

func (w *wire) ListHostKeys(context.Context, *fleetv1.ListHostKeysRequest) (*fleetv1.ListHostKeysResponse, error) {
	return w.keys, nil
}

func (w *wire) GetHead(_ *fleetv1.GetHeadRequest, s grpc.ServerStreamingServer[fleetv1.GetHeadResponse]) error {
	return s.Send(w.head)
}

// serve is a client of a coordinator.
func serve(t *testing.T, w fleetv1.OperatorServiceServer) *Client {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer()
	fleetv1.RegisterOperatorServiceServer(srv, w)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///coordinator", grpc.WithTransportCredentials(insecure.NewCredentials()), callOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		if err := <-served; err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
	return &Client{rpc: fleetv1.NewOperatorServiceClient(conn), conn: conn, handshake: &handshakes{}, timeout: time.Minute}
}

// TestMessages: single messages are bounded before objects are made of them.
func TestMessages(t *testing.T) {
	w := &wire{keys: &fleetv1.ListHostKeysResponse{}}
	c := serve(t, w)
	for range 2*kit.MaxMachines + 1 {
		w.keys.Hosts = append(w.keys.Hosts, &fleetv1.HostKeys{})
	}
	_, err := c.HostKeys(t.Context())
	wantTooMuch(t, err)
	w.keys.Hosts = w.keys.Hosts[1:]
	if list, err := c.HostKeys(t.Context()); err != nil || len(list) != 2*kit.MaxMachines {
		t.Errorf("%d keys, %v", len(list), err)
	}
	// What a large fleet has is more than one message of the others may be.
	w.keys.Hosts = []*fleetv1.HostKeys{{Machine: "galena", Keys: make([]byte, 10<<20)}}
	if list, err := c.HostKeys(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d keys, %v", len(list), err)
	}
	for size, refused := range map[int]bool{700 << 10: false, 3 << 20: true} {
		w.head = &fleetv1.GetHeadResponse{Generation: &fleetv1.SignedGeneration{Generation: make([]byte, size)}}
		if _, err := c.Head(t.Context()); errors.Is(err, ErrRefused) != refused || err != nil && (!refused || ui.HintOf(err) == "") {
			t.Errorf("a message of %d bytes: %v", size, err)
		}
	}
}
