package agent

import (
	"os"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// waitBeside polls the status of another profile than the system's.
func waitBeside(t *testing.T, h *host, name fleet.ProfileName, what string, ok func(control.Profile) bool) {
	t.Helper()
	c := h.client()
	var last control.Profile
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range st.Profiles {
			if p.Profile != name {
				continue
			}
			if last = p; ok(p) {
				return
			}
		}
	}
	t.Fatalf("profile %s did not become %s: %+v", name, what, last)
}

// TestTurns: what the system breaks for a while is not held against the generation of a
// home, whichever of the two was first.
func TestTurns(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	name := fleet.ProfileName("home/" + me.Username)
	waiting := func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonAnotherProfile }
	verifying := func(p control.Profile) bool { return p.State == fleet.StateVerifying }
	// What is never there: who wants it is verified until the deadline.
	never := func(g *fleet.Generation) {
		g.Policy.VerifyDeadline = fleet.Duration(3 * time.Second)
		g.Probes = []fleet.Probe{{Name: "never", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 75"}, Interval: fleet.Duration(20 * time.Millisecond)}}
	}
	// It is as good as what the system serves.
	onSystem := func(h *host, seq uint64, serves string) fleet.Ref {
		src, blob := h.service("beside", "")
		g := h.fleet.Generation(seq, src)
		g.Profile = name
		g.Probes = []fleet.Probe{{Name: "system", Kind: fleet.ProbeHTTP, URL: h.web.URL, Contains: serves, Interval: fleet.Duration(20 * time.Millisecond)}}
		return h.offer(g, blob)
	}

	t.Run("behind the system", func(t *testing.T) {
		h := newHost(t)
		h.start()
		one := h.confirmed(1, "one")
		h.publish(2, "broken", "", never)
		waitProfile(t, h, "verifying", verifying)
		beside := onSystem(h, 1, "one")
		waitBeside(t, h, name, "waiting", waiting)
		h.coord.WaitState(fleet.StateRolledBack, one)
		h.coord.WaitStateOf(name, fleet.StateConfirmed, beside)
	})
	t.Run("before the system, which waits for nobody", func(t *testing.T) {
		h := newHost(t)
		h.start()
		one := h.confirmed(1, "one")
		src, blob := h.service("beside", "")
		g := h.fleet.Generation(1, src)
		g.Profile, g.Policy.VerifyDeadline = name, fleet.Duration(6*time.Second)
		file := filepath.Join(t.TempDir(), "go")
		g.Probes = []fleet.Probe{{Name: "go", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "[ -e " + file + " ] || exit 75"}, Interval: fleet.Duration(20 * time.Millisecond)}}
		beside := h.offer(g, blob)
		waitBeside(t, h, name, "verifying", verifying)
		two, blob := h.generation(2, "broken", "")
		never(&two)
		two.Policy.VerifyDeadline = fleet.Duration(8 * time.Second) // It goes on when the other's is over.
		h.offer(two, blob)
		h.coord.WaitState(fleet.StateRolledBack, one)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		h.coord.WaitStateOf(name, fleet.StateConfirmed, beside)
		for _, tr := range h.coord.Transitions() {
			if tr.Profile == name && tr.State == fleet.StateRollingBack {
				t.Errorf("it went back: %+v", tr)
			}
		}
	})
	t.Run("not behind one that is kept", func(t *testing.T) {
		h := newHost(t)
		h.start()
		h.confirmed(1, "one")
		src, blob := h.service("beside", "")
		g := h.fleet.Generation(1, src)
		g.Profile = name
		never(&g)
		g.Policy.OnInconclusive = fleet.InconclusiveKeep
		h.offer(g, blob)
		waitBeside(t, h, name, "kept", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonInconclusive })
		two, blob := h.generation(2, "two", "")
		h.coord.WaitState(fleet.StateConfirmed, h.offer(two, blob))
	})
}
