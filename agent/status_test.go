package agent

import (
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestSentBackToWhatRuns: a generation is desired no more before it ran, and
// what runs is desired again. Whatever held the other one, nothing is left of
// it in the status.
func TestSentBackToWhatRuns(t *testing.T) {
	for _, c := range []struct {
		name string
		held fleet.ReasonCode
		// before is done to the host, change to the generation that never runs.
		before func(*host)
		change func(*fleet.Generation)
		// lacks says that its blob is not to be had.
		lacks bool
	}{
		{
			name: "observed", held: fleet.ReasonObserve,
			change: func(g *fleet.Generation) { g.Policy.Mode = fleet.ModeObserve },
		},
		{
			name: "observed by configuration", held: fleet.ReasonObserve,
			before: func(h *host) { h.crash(); h.config.Observe = true; h.start() },
		},
		{name: "paused", held: fleet.ReasonPaused, before: func(h *host) { pause(h.t, h) }},
		{
			name: "fetch fails", held: fleet.ReasonFetchFailed, lacks: true,
			before: func(h *host) {
				// So long that it certainly waits when the host is sent back.
				h.crash()
				h.config.Retry = Retry{First: time.Hour, Max: time.Hour, Slow: time.Hour}
				h.start()
				h.client()
				h.coord.Wait("the stream", h.agent.link.isUp)
			},
		},
		{
			name: "build fails for good", held: fleet.ReasonBuildFailed,
			change: func(g *fleet.Generation) { // A driver that this agent does not have.
				g.Source = fleet.Source{Driver: fleet.DriverNix, Flake: &fleet.FlakeSource{
					URL: "git+https://example.org/x?rev=0", Attr: "x", NarHash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
				}}
			},
		},
		{
			name: "rolled back", held: fleet.ReasonProbeFailed,
			change: func(g *fleet.Generation) {
				g.Probes[0].Contains = "what it never says"
				g.Policy.VerifyDeadline = fleet.Duration(300 * time.Millisecond)
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			g, blob := h.generation(1, "one", "")
			env, first := h.fleet.Seal(g)
			h.coord.Publish(env, nil, blob)
			h.coord.WaitState(fleet.StateConfirmed, first)
			if c.before != nil {
				c.before(h)
			}
			g, blob = h.generation(2, "two", "")
			g.RevertTo = []fleet.Ref{first}
			if c.change != nil {
				c.change(&g)
			}
			second, _ := h.fleet.Seal(g)
			blobs := [][]byte{blob}
			if c.lacks {
				blobs = nil
			}
			h.coord.Publish(second, nil, blobs...)
			h.coord.WaitReason(c.held)
			h.coord.Revert(env, nil)
			p := h.coord.WaitReason(fleet.ReasonUpToDate)
			if p.State != fleet.StateConfirmed || p.Current != first {
				t.Errorf("reported: %+v", p)
			}
			waitProfile(t, h, "confirmed", func(p control.Profile) bool {
				return p.State == fleet.StateConfirmed && p.Reason.Code == fleet.ReasonUpToDate && p.Desired == first
			})
		})
	}
}
