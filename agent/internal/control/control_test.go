package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeHost answers what a test says, and remembers what it was asked.
type fakeHost struct {
	status Status
	err    error
	asked  []string
	log    string
}

func (h *fakeHost) ask(format string, args ...any) error {
	h.asked = append(h.asked, fmt.Sprintf(format, args...))
	return h.err
}

func (h *fakeHost) Status(context.Context) (Status, error) { return h.status, h.err }
func (h *fakeHost) Pause(_ context.Context, reason, actor string) error {
	return h.ask("pause %s by %s", reason, actor)
}

func (h *fakeHost) Resume(_ context.Context, actor string) error { return h.ask("resume by %s", actor) }

func (h *fakeHost) RollBack(_ context.Context, p fleet.ProfileName, leaving fleet.Number, actor string) (RolledBack, error) {
	target := fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 1}}
	return RolledBack{Target: target, Already: true}, h.ask("roll back %s from %s by %s", p, leaving, actor)
}

func (h *fakeHost) Retry(_ context.Context, p fleet.ProfileName, actor string) (Retried, error) {
	return Retried{
		Target: fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 2}}, Waited: fleet.Reason{Code: fleet.ReasonFetchFailed},
	}, h.ask("retry %s by %s", p, actor)
}

func (h *fakeHost) Boot(_ context.Context, p fleet.ProfileName, actor string) (fleet.Ref, error) {
	return fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 5}}, h.ask("boot %s by %s", p, actor)
}

func (h *fakeHost) Apply(file io.Reader, actor string) (fleet.ProfileName, fleet.Ref, error) {
	n, err := io.Copy(io.Discard, file)
	return "home/x", fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 3}}, errors.Join(err, h.ask("apply %d bytes by %s", n, actor))
}

func (h *fakeHost) ResetTrust(root []byte, pin fleet.Digest, actor string) (uint64, error) {
	return 4, h.ask("reset trust to %d bytes with %s by %s", len(root), pin.Short(), actor)
}

func (h *fakeHost) Logs(context.Context, fleet.ProfileName) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(h.log)), h.err
}

func serve(t *testing.T, h Host) (*Client, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	dir = filepath.Join(dir, "run")
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Listen(ctx, dir, h)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c, dir
}

func TestRoundTrip(t *testing.T) {
	ref := func(n uint64) fleet.Ref {
		return fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: n}, Digest: fleet.DigestOf([]byte{byte(n)}), Release: "r"}
	}
	h := &fakeHost{log: strings.Repeat("line\n", 50_000), status: Status{
		Machine: "pyrite", Mode: fleet.ModeManage, Paused: "lunch",
		Coordinator: fleet.Reason{Code: fleet.ReasonUnreachable, Message: "gone", Hint: "look"}, CoordinatorSeen: time.Unix(1e9, 0).UTC(),
		Outbox: 7, IdentityExpires: time.Unix(2e9, 0).UTC(), AgentVersion: "v1",
		Profiles: []Profile{{Desired: ref(3), ProfileStatus: fleet.ProfileStatus{
			Profile: fleet.System, State: fleet.StateHeld, Reason: fleet.Reason{Code: fleet.ReasonPaused},
			Current: ref(2), Confirmed: ref(2), LastGood: ref(1), Highest: ref(3), Refused: []fleet.Ref{ref(4)},
		}}},
	}}
	c, dir := serve(t, h)
	ctx := t.Context()
	got, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(h.status, got); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
	var log bytes.Buffer
	if err := c.Logs(ctx, "", &log); err != nil || log.String() != h.log {
		t.Errorf("logs: %d bytes, %v", log.Len(), err)
	}
	if r, err := c.RollBack(ctx, "home/eve", fleet.Number{Epoch: 1, Seq: 2}); err != nil || r.Target.Number.Seq != 1 || !r.Already {
		t.Errorf("RollBack: %v, %v", r, err)
	}
	if ref, err := c.Boot(ctx, ""); err != nil || ref.Number.Seq != 5 {
		t.Errorf("boot: %v, %v", ref, err)
	}
	if r, err := c.Retry(ctx, ""); err != nil || r.Target.Number.Seq != 2 || r.Waited.Code != fleet.ReasonFetchFailed {
		t.Errorf("Retry: %v, %v", r, err)
	}
	if err := errors.Join(c.Pause(ctx, " lunch "), c.Resume(ctx)); err != nil {
		t.Error(err)
	}
	me := fmt.Sprintf("local/uid-%d", os.Geteuid())
	want := []string{
		"roll back home/eve from 1.2 by " + me, "boot system by " + me, "retry system by " + me, "pause lunch by " + me, "resume by " + me,
	}
	if d := cmp.Diff(want, h.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	if err := c.Pause(ctx, "  "); err == nil {
		t.Error("paused without a reason")
	}
	if _, err := c.RollBack(ctx, "../etc", fleet.Number{}); err == nil {
		t.Error("rolled back a profile that can't be")
	}
	h.err = NotPossible("wait", "there is %s", "nothing")
	if _, err := c.Retry(ctx, ""); !errors.Is(err, ErrNotPossible) || err.Error() != "not possible now: there is nothing" || ui.HintOf(err) != "wait" {
		t.Errorf("not possible: %v (%s)", err, ui.HintOf(err))
	}
	h.err = fmt.Errorf("%w: it runs", ErrNothingRefused)
	if _, err := c.Retry(ctx, ""); !errors.Is(err, ErrNothingRefused) || err.Error() != h.err.Error() {
		t.Errorf("nothing to retry: %v", err)
	}
	for path, perm := range map[string]os.FileMode{dir: 0o700, SocketPath(dir): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != perm {
			t.Errorf("%s: %v, %v", path, fi.Mode().Perm(), err)
		}
	}
	if _, err := Listen(ctx, dir, h); !errors.Is(err, ErrInUse) {
		t.Errorf("a second agent: %v", err)
	}
}

func TestNoAgent(t *testing.T) {
	c, err := Dial(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("Status: %v", err)
	}
}

// TestNotAllowed: who may not open the socket hears that, not that no agent runs.
func TestNotAllowed(t *testing.T) {
	c := &Client{path: "/run/x", closed: &atomic.Bool{}}
	away := status.Error(codes.Unavailable, `connection error: desc = "transport: error while dialing: dial unix /run/x: connect: refused"`)
	if err := c.explain(away); !errors.Is(err, ErrNoAgent) || strings.Contains(err.Error(), "desc =") {
		t.Errorf("away: %v", err)
	}
	if os.Geteuid() != 0 {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
		c, err := Dial(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Status(t.Context()); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("dialed: %v", err)
		}
	}
	c.closed.Store(true)
	if err := c.explain(away); !errors.Is(err, ErrNotAllowed) || errors.Is(err, ErrNoAgent) || !strings.Contains(ui.HintOf(err), "sudo") {
		t.Errorf("closed: %v", err)
	}
}

// TestPeer: only a unix socket tells who is at the other end.
func TestPeer(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if _, _, err := (peerCredentials{}).ServerHandshake(a); err == nil {
		t.Error("a pipe was let in")
	}
}
