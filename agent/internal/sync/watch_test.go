package sync

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAbsentForDays: attempts at an absent coordinator stay few, and stop with
// the context.
func TestAbsentForDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials, downs int
		c := New(Config{
			Addresses: []string{"192.0.2.1:1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS13},
			Dial: func(context.Context, string) (net.Conn, error) {
				dials++
				return nil, errors.New("no route")
			},
		})
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 3*24*time.Hour)
		defer cancel()
		err := c.Watch(ctx, Backoff{First: 500 * time.Millisecond, Max: 5 * time.Minute, Slow: 5 * time.Minute}, nil,
			func(Hint) { t.Error("a hint out of nowhere") },
			func(err error) {
				downs++
				if !errors.Is(err, ErrUnreachable) {
					t.Errorf("down: %v", err)
				}
			})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Watch: %v", err)
		}
		// Evenly drawn from five minutes, three days have 1728 attempts.
		if downs < 1400 || downs > 2100 || dials > downs+1 {
			t.Errorf("%d attempts, %d dials", downs, dials)
		}
	})
}

// pipe is a coordinator at the other end of a pipe, with a fleet's identities.
type pipe struct {
	fleetv1.UnimplementedHostServiceServer

	listener *bufconn.Listener
	server   *grpc.Server
	watch    func(grpc.ServerStreamingServer[fleetv1.WatchResponse]) error
	desired  *fleetv1.GetDesiredResponse
	renewed  *fleetv1.RenewResponse
}

func (p *pipe) Watch(_ *fleetv1.WatchRequest, s grpc.ServerStreamingServer[fleetv1.WatchResponse]) error {
	return p.watch(s)
}

func newPipe(t *testing.T) (*pipe, Config) {
	t.Helper()
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(id pki.Identity) tls.Certificate {
		key, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		der, err := ca.Issue(id, key.Public(), time.Now(), 30*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	server, client := leaf(pki.CoordinatorIdentity("test", "c")), leaf(pki.HostIdentity("test", "h"))
	cas := func() []*x509.Certificate { return []*x509.Certificate{ca.Cert} }
	p := &pipe{listener: bufconn.Listen(64 << 10)}
	p.server = grpc.NewServer(grpc.Creds(credentials.NewTLS(pki.ServerTLS(pki.ServerConfig{
		Certificate: func() (*tls.Certificate, error) { return &server, nil }, CAs: cas, Fleet: "test", Now: time.Now,
	}))))
	fleetv1.RegisterHostServiceServer(p.server, p)
	go func() { _ = p.server.Serve(p.listener) }()
	return p, Config{
		Addresses: []string{"c:1"},
		TLS: pki.ClientTLS(pki.ClientConfig{
			Certificate: func() (*tls.Certificate, error) { return &client, nil }, CAs: cas, Fleet: "test", Now: time.Now,
		}),
		Dial: func(ctx context.Context, _ string) (net.Conn, error) { return p.listener.DialContext(ctx) },
	}
}

// TestWatch: hints arrive; a stream that ends is opened again; a refusal is
// told by name, and makes attempts rare; a coordinator that accepts streams
// and says nothing is not there.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, config := newPipe(t)
		defer p.server.Stop()
		streams := 0
		p.watch = func(s grpc.ServerStreamingServer[fleetv1.WatchResponse]) error {
			streams++
			switch streams {
			case 1:
				for _, r := range []fleetv1.WakeReason{
					fleetv1.WakeReason_WAKE_REASON_HELLO, fleetv1.WakeReason_WAKE_REASON_DESIRED, fleetv1.WakeReason_WAKE_REASON_REPORT,
				} {
					if err := s.Send(&fleetv1.WatchResponse{Reason: r}); err != nil {
						return err
					}
				}
				return refusal.New(codes.Unavailable, fleet.Reason{Code: refusal.Stopping, Message: "stopping"})
			case 2:
				return refusal.New(codes.PermissionDenied, fleet.Reason{Code: fleet.ReasonBanned, Message: "banned", Hint: "ask"})
			case 3:
				return status.Error(codes.PermissionDenied, "an answer without a reason")
			}
			<-s.Context().Done()
			return s.Context().Err()
		}
		c := New(config)
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		var hints []Hint
		var downs []error
		_ = c.Watch(ctx, Backoff{First: time.Second, Max: time.Minute, Slow: time.Hour}, nil,
			func(h Hint) { hints = append(hints, h) },
			func(err error) {
				downs = append(downs, err)
				if len(downs) == 4 {
					cancel()
				}
			})
		if len(hints) != 3 || hints[0] != HintHello || hints[1] != HintDesired || hints[2] != HintReport {
			t.Errorf("hints: %v", hints)
		}
		if len(downs) != 4 {
			t.Fatalf("downs: %v", downs)
		}
		if !errors.Is(downs[0], ErrUnreachable) || !errors.Is(downs[3], ErrUnreachable) {
			t.Errorf("a stopping and a silent coordinator: %v, %v", downs[0], downs[3])
		}
		if r := ReasonOf(downs[1]); r.Code != fleet.ReasonBanned || r.Hint != "ask" {
			t.Errorf("refusal: %+v", r)
		}
		if r := (*RefusedError)(nil); !errors.As(downs[2], &r) {
			t.Errorf("answer without a reason: %v", downs[2])
		}
	})
}

// TestRestarted: a coordinator that is restarted again and again, each time in order, is
// found at once whatever came before; one that falls over is given ever more time.
func TestRestarted(t *testing.T) {
	for name, tt := range map[string]struct {
		ends     error
		min, max time.Duration
	}{
		"in order":   {refusal.New(codes.Unavailable, fleet.Reason{Code: refusal.Stopping, Message: "stopping"}), 0, 15 * time.Second},
		"falls over": {status.Error(codes.Unavailable, "fell over"), time.Minute, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, config := newPipe(t)
				defer p.server.Stop()
				p.watch = func(grpc.ServerStreamingServer[fleetv1.WatchResponse]) error { return tt.ends }
				c := New(config)
				defer c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				began, downs := time.Now(), 0
				_ = c.Watch(ctx, Backoff{First: time.Second, Max: 5 * time.Minute, Slow: time.Hour}, nil, func(Hint) {}, func(error) {
					if downs++; downs == 16 {
						cancel()
					}
				})
				if took := time.Since(began); took < tt.min || took > tt.max {
					t.Errorf("16 attempts took %s", took)
				}
			})
		})
	}
}

// TestKick ends a wait early.
func TestKick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		downs := 0
		c := New(Config{
			Addresses: []string{"c:1"}, TLS: &tls.Config{MinVersion: tls.VersionTLS13},
			Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("no") },
		})
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		kick := make(chan struct{}, 1)
		_ = c.Watch(ctx, Backoff{First: 1000 * time.Hour, Max: 1000 * time.Hour, Slow: time.Hour}, kick, nil, func(error) {
			if downs++; downs < 5 {
				kick <- struct{}{}
			}
		})
		if downs != 5 {
			t.Errorf("%d attempts", downs)
		}
	})
}
