package driver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	driverv1 "github.com/cameronraysmith/fleet/proto/driver/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake answers what a test says.
type fake struct {
	path       string
	err        error
	progress   []driver.Progress
	lines      []string
	activation driver.Activation
	asked      driver.BuildRequest
}

func (f *fake) Current(context.Context, fleet.ProfileName) (string, error) { return f.path, f.err }

func (f *fake) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	f.asked = req
	for _, p := range f.progress {
		progress(p)
	}
	if f.path == "wait" {
		<-ctx.Done()
		return "", fmt.Errorf("building: %w", context.Cause(ctx))
	}
	return f.path, f.err
}

func (f *fake) Diff(context.Context, fleet.ProfileName, string, string) ([]string, error) {
	return f.lines, f.err
}

func (f *fake) Activation(context.Context, fleet.ProfileName, string, string) (driver.Activation, error) {
	return f.activation, f.err
}

func connect(t *testing.T, d driver.Driver) driver.Driver {
	t.Helper()
	connected, stop, err := driver.InProcess(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return connected
}

func TestAdapterCarriesEverything(t *testing.T) {
	digest := fleet.DigestOf(nil)
	f := &fake{
		path:     "/built",
		progress: []driver.Progress{{Message: "one", Done: 1, Total: 2}, {Message: "two", Done: 2, Total: 2}},
		lines:    []string{"+ a", "- b"},
		activation: driver.Activation{
			Activate: action(execStep(func(*driver.Exec) {}), linkStep("/a", "/b")),
			Rollback: action(linkStep("/a", "")),
		},
	}
	d := connect(t, f)
	req := driver.BuildRequest{
		Profile: "home/somebody",
		Source:  fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: digest, Size: 7}},
		Blobs:   map[fleet.Digest]string{digest: "/blob"},
	}
	var progress []driver.Progress
	path, err := d.Build(t.Context(), req, func(p driver.Progress) { progress = append(progress, p) })
	if err != nil || path != "/built" {
		t.Errorf("got %q, %v", path, err)
	}
	if diff := cmp.Diff(f.progress, progress); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(req, f.asked); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if current, err := d.Current(t.Context(), fleet.System); err != nil || current != "/built" {
		t.Errorf("got %q, %v", current, err)
	}
	lines, err := d.Diff(t.Context(), fleet.System, "/a", "/b")
	if diff := cmp.Diff(f.lines, lines); diff != "" || err != nil {
		t.Errorf("%v, diff (-want +got):\n%s", err, diff)
	}
	a, err := d.Activation(t.Context(), fleet.System, "/a", "/b")
	if diff := cmp.Diff(f.activation, a); diff != "" || err != nil {
		t.Errorf("%v, activation (-want +got):\n%s", err, diff)
	}
}

// request is a valid one.
func request() driver.BuildRequest {
	return driver.BuildRequest{Profile: fleet.System, Source: fleet.Source{
		Driver: "bundle", Bundle: &fleet.BundleSource{Digest: fleet.DigestOf([]byte("b")), Size: 1},
	}}
}

func TestErrorsSurvive(t *testing.T) {
	for _, want := range []error{driver.ErrSource, driver.ErrNotBuilt, context.DeadlineExceeded, context.Canceled} {
		d := connect(t, &fake{err: fmt.Errorf("trying hard: %w", want)})
		_, err1 := d.Current(t.Context(), fleet.System)
		_, err2 := d.Build(t.Context(), request(), nil)
		_, err3 := d.Diff(t.Context(), fleet.System, "", "/a")
		_, err4 := d.Activation(t.Context(), fleet.System, "", "/a")
		for _, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, want) || !strings.Contains(err.Error(), "trying hard") {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	}
	d := connect(t, &fake{err: errors.New("something else")})
	if _, err := d.Current(t.Context(), fleet.System); err == nil || err.Error() != "something else" {
		t.Errorf("got %v", err)
	}
}

func TestBuildEndsWithItsContext(t *testing.T) {
	f := &fake{path: "wait", progress: []driver.Progress{{Message: "waiting"}}}
	d := connect(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := d.Build(ctx, request(), func(driver.Progress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	d := connect(t, &fake{path: "/built"})
	for name, spoil := range map[string]func(*driver.BuildRequest){
		"profile":       func(r *driver.BuildRequest) { r.Profile = "../x" },
		"digest":        func(r *driver.BuildRequest) { r.Blobs = map[fleet.Digest]string{"md5:x": "/a"} },
		"blob's file":   func(r *driver.BuildRequest) { r.Blobs = map[fleet.Digest]string{fleet.DigestOf(nil): "relative"} },
		"closure":       func(r *driver.BuildRequest) { r.Closure = "relative" },
		"no source":     func(r *driver.BuildRequest) { r.Source = fleet.Source{} },
		"no content":    func(r *driver.BuildRequest) { r.Source.Bundle = nil },
		"other content": func(r *driver.BuildRequest) { r.Source.Driver = "files" },
	} {
		req := request()
		spoil(&req)
		if _, err := d.Build(t.Context(), req, nil); !errors.Is(err, driver.ErrSource) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := d.Build(t.Context(), request(), nil); err != nil {
		t.Errorf("a good one: %v", err)
	}
	if _, err := d.Current(t.Context(), "../x"); err == nil {
		t.Error("a profile named ../x was taken")
	}
}

// plugin answers on the wire what no Driver could.
type plugin struct {
	driverv1.UnimplementedDriverServiceServer

	build      []*driverv1.BuildResponse
	activation *driverv1.ActivationResponse
	lines      []string
}

func (p *plugin) Current(context.Context, *driverv1.CurrentRequest) (*driverv1.CurrentResponse, error) {
	return &driverv1.CurrentResponse{Path: "../relative"}, nil
}

func (p *plugin) Build(_ *driverv1.BuildRequest, s grpc.ServerStreamingServer[driverv1.BuildResponse]) error {
	for _, b := range p.build {
		if err := s.Send(b); err != nil {
			return err
		}
	}
	return nil
}

func (p *plugin) Diff(context.Context, *driverv1.DiffRequest) (*driverv1.DiffResponse, error) {
	return &driverv1.DiffResponse{Lines: p.lines}, nil
}

func (p *plugin) Activation(context.Context, *driverv1.ActivationRequest) (*driverv1.ActivationResponse, error) {
	return p.activation, nil
}

func plug(t *testing.T, p *plugin) driver.Driver {
	t.Helper()
	listener := bufconn.Listen(64 << 10)
	server := grpc.NewServer()
	driverv1.RegisterDriverServiceServer(server, p)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := conn.Close()
		server.Stop()
		if err := errors.Join(err, <-done); err != nil {
			t.Error(err)
		}
	})
	return driver.Connect(conn)
}

func TestAnswersOfPluginsAreChecked(t *testing.T) {
	exec := func(argv ...string) *driverv1.ActivationResponse {
		return &driverv1.ActivationResponse{Activate: &driverv1.Action{
			Steps: []*driverv1.Step{{Effect: &driverv1.Step_Exec{Exec: &driverv1.Exec{Argv: argv}}}},
		}}
	}
	for _, p := range []*plugin{
		{activation: exec("/bin/true")}, // no deadline
		{activation: &driverv1.ActivationResponse{Commit: &driverv1.Action{Steps: []*driverv1.Step{{}}}}},
		{build: []*driverv1.BuildResponse{{Message: "and then nothing"}}},
		{build: []*driverv1.BuildResponse{{Path: "relative"}}},
		{build: []*driverv1.BuildResponse{{Path: "/a"}, {Path: "/b"}}},
	} {
		d := plug(t, p)
		_, err := d.Current(t.Context(), fleet.System)
		if !errors.Is(err, driver.ErrAnswer) {
			t.Errorf("current: got %v", err)
		}
		if p.activation != nil {
			_, err = d.Activation(t.Context(), fleet.System, "", "/a")
		} else {
			_, err = d.Build(t.Context(), request(), nil)
		}
		if !errors.Is(err, driver.ErrAnswer) {
			t.Errorf("%v: got %v", p, err)
		}
	}
	d := plug(t, &plugin{lines: make([]string, 5000)})
	lines, err := d.Diff(t.Context(), fleet.System, "", "/a")
	if err != nil || len(lines) > driver.MaxDiffLines+1 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

// able has the extra abilities.
type able struct {
	fake

	kept     []string
	verified string
}

func (a *able) Prune(_ context.Context, keep []string) ([]string, error) {
	a.kept = keep
	return []string{"/gone"}, nil
}

func (a *able) Verify(_ context.Context, path string) error {
	a.verified = path
	return nil
}

func TestExtraAbilities(t *testing.T) {
	a := &able{}
	d := connect(t, a)
	removed, err := driver.Prune(t.Context(), d, []string{"/kept"})
	if err != nil || len(removed) != 1 || len(a.kept) != 1 {
		t.Errorf("got %q, %v", removed, err)
	}
	if err := driver.Verify(t.Context(), d, "/a"); err != nil || a.verified != "/a" {
		t.Errorf("got %v, %q", err, a.verified)
	}
	d = connect(t, &fake{})
	if _, err := driver.Prune(t.Context(), d, nil); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if err := driver.Verify(t.Context(), d, "/a"); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCall(b *testing.B) {
	d, stop, err := driver.InProcess(&fake{path: "/built"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := d.Current(b.Context(), fleet.System); err != nil {
			b.Fatal(err)
		}
	}
	if err := stop(); err != nil {
		b.Fatal(err)
	}
}
