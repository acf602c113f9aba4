package probe_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/probe"
	probev1 "github.com/cameronraysmith/fleet/proto/probe/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves what register registers over a pipe.
func connect(t *testing.T, register func(*grpc.Server)) probe.Probe {
	t.Helper()
	listener := bufconn.Listen(64 << 10)
	server := grpc.NewServer()
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///probe",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<10)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return probe.Connect(conn)
}

type says struct {
	res   probe.Result
	err   error
	asked probe.Request
}

func (s *says) Check(_ context.Context, req probe.Request) (probe.Result, error) {
	s.asked = req
	return s.res, s.err
}

func TestCheck(t *testing.T) {
	req := probe.Request{Profile: fleet.System, Path: "/built", Config: []byte(`{"a":1}`)}
	for _, v := range []fleet.Verdict{fleet.VerdictPass, fleet.VerdictFail, fleet.VerdictInconclusive} {
		s := &says{res: probe.Result{Verdict: v, Detail: "seen"}}
		got, err := connect(t, func(g *grpc.Server) { probe.Serve(g, s) }).Check(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.res, got); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(req, s.asked); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}
}

func TestBadAnswers(t *testing.T) {
	req := probe.Request{Profile: fleet.System}
	broken := errors.New("out of order")
	for _, c := range []struct {
		name  string
		probe *says
		req   probe.Request
		want  error
		say   string
	}{
		{"no verdict", &says{}, req, probe.ErrAnswer, "no verdict"},
		{"unknown verdict", &says{res: probe.Result{Verdict: "maybe"}}, req, probe.ErrAnswer, "no verdict"},
		{"error", &says{err: broken}, req, nil, "out of order"},
		{"profile", &says{}, probe.Request{Profile: "x"}, nil, "profile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := connect(t, func(g *grpc.Server) { probe.Serve(g, c.probe) }).Check(t.Context(), c.req)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.say)
			}
		})
	}
	t.Run("no probe", func(t *testing.T) {
		if _, err := connect(t, func(*grpc.Server) {}).Check(t.Context(), req); !errors.Is(err, probe.ErrUnsupported) {
			t.Errorf("got %v, want %v", err, probe.ErrUnsupported)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		_, err := connect(t, func(g *grpc.Server) { probe.Serve(g, &says{}) }).Check(ctx, req)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
	})
	t.Run("long detail", func(t *testing.T) {
		s := &says{res: probe.Result{Verdict: fleet.VerdictPass, Detail: strings.Repeat("x", 1<<20)}}
		res, err := connect(t, func(g *grpc.Server) { probe.Serve(g, s) }).Check(t.Context(), req)
		if err != nil || len(res.Detail) > probe.MaxDetailBytes+len("…") {
			t.Errorf("%d bytes, %v", len(res.Detail), err)
		}
	})
	t.Run("flood", func(t *testing.T) {
		_, err := connect(t, func(g *grpc.Server) { probev1.RegisterProbeServiceServer(g, flood{}) }).Check(t.Context(), req)
		if !errors.Is(err, probe.ErrAnswer) {
			t.Errorf("got %v, want %v", err, probe.ErrAnswer)
		}
	})
	t.Run("verdict of a newer contract", func(t *testing.T) {
		_, err := connect(t, func(g *grpc.Server) { probev1.RegisterProbeServiceServer(g, newer{}) }).Check(t.Context(), req)
		if !errors.Is(err, probe.ErrAnswer) {
			t.Errorf("got %v, want %v", err, probe.ErrAnswer)
		}
	})
}

// flood answers more than anybody takes.
type flood struct {
	probev1.UnimplementedProbeServiceServer
}

func (flood) Check(context.Context, *probev1.CheckRequest) (*probev1.CheckResponse, error) {
	return &probev1.CheckResponse{Verdict: probev1.Verdict_VERDICT_PASS, Detail: strings.Repeat("x", 1<<20)}, nil
}

type newer struct {
	probev1.UnimplementedProbeServiceServer
}

func (newer) Check(context.Context, *probev1.CheckRequest) (*probev1.CheckResponse, error) {
	return &probev1.CheckResponse{Verdict: 99}, nil
}
