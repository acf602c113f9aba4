package control

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// fakePersonHost has user 1000 at the console.
type fakePersonHost struct{ fakeHost }

func (h *fakePersonHost) AtConsole(_ context.Context, uid uint32) bool { return uid == 1000 }

func (h *fakePersonHost) Postpone(_ context.Context, ask time.Duration, actor string) ([]Postponed, error) {
	return []Postponed{{
		Profile: fleet.System, Target: fleet.Ref{Number: fleet.Number{Epoch: 1, Seq: 2}}, Until: time.Unix(1e9, 0).UTC(), Left: 2,
	}}, h.ask("postpone for %s by %s", ask, actor)
}

// servePerson serves as if all callers were the user that the returned number is.
func servePerson(t *testing.T, h PersonHost) (c *PersonClient, uid *atomic.Uint32) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	run := filepath.Join(dir, "run")
	ctx, cancel := context.WithCancel(context.Background())
	s, err := ListenPerson(ctx, run, h)
	if err != nil {
		t.Fatal(err)
	}
	uid = &atomic.Uint32{}
	s.uidOf = func(*net.UnixConn) (uint32, error) { return uid.Load(), nil }
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return NewPersonClient(run), uid
}

func TestPerson(t *testing.T) {
	probed := fleet.Reason{Code: fleet.ReasonProbeFailed, Message: "password=hunter2", Hint: "look"}
	waits := fleet.Reason{Code: fleet.ReasonConsoleNotice, Message: "begins at 8", Hint: "postpone"}
	h := &fakePersonHost{fakeHost{status: Status{
		Machine: "pyrite", Mode: fleet.ModeManage, Coordinator: fleet.Reason{Code: fleet.ReasonUnreachable, Message: "10.0.0.1 is gone"},
		Profiles: []Profile{
			{ProfileStatus: fleet.ProfileStatus{Profile: fleet.System, State: fleet.StateHeld, Reason: waits}},
			{ProfileStatus: fleet.ProfileStatus{Profile: "home/eve", State: fleet.StateFailed, Reason: probed, Refused: []fleet.Ref{{Digest: "x"}}}},
		},
	}}}
	c, uid := servePerson(t, h)
	ctx := t.Context()

	uid.Store(0)
	if got, err := c.Status(ctx); err != nil || cmp.Diff(h.status, got) != "" {
		t.Errorf("root sees %+v, %v", got, err)
	}
	uid.Store(1000)
	got, err := c.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got.Machine != "pyrite" || got.Profiles[0].Reason != waits || got.Coordinator != (fleet.Reason{Code: fleet.ReasonUnreachable}) {
		t.Errorf("the person at the console sees %+v", got)
	}
	if p := got.Profiles[1]; p.Reason != (fleet.Reason{Code: fleet.ReasonProbeFailed}) || p.Refused != nil {
		t.Errorf("the person at the console sees %+v", p)
	}
	if p, err := c.Postpone(ctx, time.Hour); err != nil || len(p) != 1 || p[0].Left != 2 || p[0].Target.Number.Seq != 2 || !p[0].Until.Equal(time.Unix(1e9, 0)) {
		t.Errorf("postponed %+v, %v", p, err)
	}
	if want := []string{"postpone for 1h0m0s by local/uid-1000"}; cmp.Diff(want, h.asked) != "" {
		t.Errorf("asked %q", h.asked)
	}
	time.Sleep(2 * personPause)
	h.err = NotPossible("wait", "nothing waits")
	if _, err := c.Postpone(ctx, 0); !errors.Is(err, ErrNotPossible) || strings.Count(err.Error(), "not possible") != 1 || ui.HintOf(err) != "wait" {
		t.Errorf("got %v (%s)", err, ui.HintOf(err))
	}
	h.err = errors.New("the disk\x1b[2J is full")
	if _, err := c.Status(ctx); err == nil || errors.Is(err, ErrNotPossible) || err.Error() != "the disk[2J is full" {
		t.Errorf("got %q", err)
	}
}

// TestStranger: who is neither root nor at the console is told so, and asks nothing.
func TestStranger(t *testing.T) {
	h := &fakePersonHost{}
	c, uid := servePerson(t, h)
	uid.Store(1001)
	_, status := c.Status(t.Context())
	_, postpone := c.Postpone(t.Context(), 0)
	for _, err := range []error{status, postpone} {
		if !errors.Is(err, ErrNotAllowed) || !strings.Contains(err.Error(), "at this machine's screen") || !strings.Contains(ui.HintOf(err), "over the network") {
			t.Errorf("got %v (%s)", err, ui.HintOf(err))
		}
	}
	if len(h.asked) > 0 {
		t.Errorf("asked %q", h.asked)
	}
}

// TestPersonBounds: what is no question, too long or never comes keeps nobody else from
// being served.
func TestPersonBounds(t *testing.T) {
	h := &fakePersonHost{}
	c, uid := servePerson(t, h)
	uid.Store(1001)
	var held []net.Conn
	dial := func() net.Conn {
		conn, err := net.Dial("unix", c.path) //nolint:noctx // Closed below.
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
		return conn
	}
	defer func() {
		for _, conn := range held {
			_ = conn.Close()
		}
	}()
	for range maxPerUser {
		dial()
	}
	// The next one of that user is turned away at once.
	if b, err := io.ReadAll(dial()); err != nil || len(b) > 0 {
		t.Errorf("one too many: %q, %v", b, err)
	}
	uid.Store(1000)
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("beside a stranger who says nothing: %v", err)
	}
	for _, text := range []string{"\n", "{}\n", "[1]\n", `{"do":"logs"}` + "\n", `{"do":"postpone","for":"-1h"}` + "\n", strings.Repeat("x", 2*maxQuestionBytes)} {
		time.Sleep(2 * personPause)
		conn := dial()
		_, _ = conn.Write([]byte(text))
		b, err := io.ReadAll(conn)
		if len(text) > maxQuestionBytes {
			if len(b) > 0 {
				t.Errorf("answered a line of %d bytes: %q", len(text), b)
			}
			continue
		}
		if err != nil || !strings.Contains(string(b), `"refused":"`) {
			t.Errorf("%q: %q, %v", text, b, err)
		}
	}
	if len(h.asked) > 0 {
		t.Errorf("asked %q", h.asked)
	}
}

// TestPersonAmongMany: whoever is many users leaves room for the person at the console and
// for root.
func TestPersonAmongMany(t *testing.T) {
	t.Parallel()
	s := &PersonServer{host: &fakePersonHost{}, places: map[uint32]int{}}
	for n := range uint32(maxStrangers) {
		if !s.admit(t.Context(), 100000+n) {
			t.Fatalf("user %d has no place", n)
		}
	}
	if s.admit(t.Context(), 200000) {
		t.Error("one more of the many is let in")
	}
	for _, uid := range []uint32{1000, 0} {
		for range maxPerUser {
			if !s.admit(t.Context(), uid) {
				t.Errorf("user %d is kept out", uid)
			}
		}
		if s.admit(t.Context(), uid) {
			t.Errorf("user %d is let in once too often", uid)
		}
	}
	for n := range uint32(2*maxPerUser + 1) {
		s.give(100000 + n)
	}
	if !s.admit(t.Context(), 200000) {
		t.Error("a place that was given back is lost")
	}
}

func TestListenPersonIsCareful(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	if err := os.Symlink(t.TempDir(), run+personSuffix); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenPerson(t.Context(), run, &fakePersonHost{}); err == nil || !strings.Contains(err.Error(), "none of the agent's") {
		t.Errorf("a link: %v", err)
	}
	if _, err := NewPersonClient(run).Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("nobody listens: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	run = filepath.Join(dir, "other")
	if err := errors.Join(os.Mkdir(run+personSuffix, 0o755), os.Chown(run+personSuffix, 1001, 1001)); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenPerson(t.Context(), run, &fakePersonHost{}); err == nil || !strings.Contains(err.Error(), "none of the agent's") {
		t.Errorf("another user's: %v", err)
	}
}

// TestPersonSocketIsForAll: others reach the socket and nothing else of the agent's.
func TestPersonSocketIsForAll(t *testing.T) {
	c, _ := servePerson(t, &fakePersonHost{})
	for path, want := range map[string]os.FileMode{c.path: 0o666, filepath.Dir(c.path): 0o755} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
}

// TestForPerson: what root wrote, and paths of others, are not for the person.
func TestForPerson(t *testing.T) {
	t.Parallel()
	s := Status{Paused: "because of bob", Profiles: []Profile{
		{ProfileStatus: fleet.ProfileStatus{Reason: fleet.Reason{Code: fleet.ReasonObserve, Message: "this host observes" + ChangedOnHost + "/nix/store/x runs"}}},
		{ProfileStatus: fleet.ProfileStatus{Reason: fleet.Reason{Code: fleet.ReasonProbeFailed, Message: "probe says secret", Hint: "look"}}},
	}}.forPerson()
	if s.Paused != "by root" || s.Profiles[0].Reason.Message != "this host observes" || s.Profiles[1].Reason != (fleet.Reason{Code: fleet.ReasonProbeFailed}) {
		t.Errorf("%+v", s)
	}
}
