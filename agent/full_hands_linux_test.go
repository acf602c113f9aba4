package agent

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/plugintest"
	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// handParts are rows of TestDiskFullByPart: what a plugin, a dead-man switch and a
// person at the host need room for.
func handParts() []hostPart {
	return []hostPart{
		{name: "a plugin, no room for its executable", disk: "plugins", needs: makes, prepare: (*partHost).plugs, begin: (*partHost).published, done: (*partHost).isPlugged},
		{name: "an activation, no room for the dead-man switch's order", disk: "dead-man", needs: makes, prepare: (*partHost).runs, begin: (*partHost).published, done: (*partHost).isConfirmed},
		{name: "a file that a person brings, no room for its blobs", disk: "blobs", needs: makes, asks: []disktest.Kind{disktest.Bytes}, prepare: (*partHost).runs, do: (*partHost).applies},
		{name: "a file that a person brings, no room for its documents", disk: "desired", needs: makes, prepare: (*partHost).runs, do: (*partHost).applies},
		{name: "a file that a person brings, no room for the journal", disk: "journal", needs: grows, prepare: (*partHost).runs, do: (*partHost).applies},
		{name: "another trust root, no room for it", disk: "desired", needs: makes, prepare: (*partHost).moves, do: (*partHost).resets},
		{name: "another trust root, no room for the pin", disk: "identity", needs: makes, prepare: (*partHost).moves, do: (*partHost).resets},
	}
}

// plugs is a host whose next generation is a plugin's.
func (h *partHost) plugs() {
	h.t.Helper()
	h.runs()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	// The test's own program is larger than the disk.
	script := fmt.Appendf(nil, "#!/bin/bash\nexec -a %s '%s' \"$@\"\n", plugintest.Good, self)
	env, ref := h.fleet.Seal(h.pinned(2, plugintest.Good, "two", script))
	h.ref = ref
	h.publishNext = func() { h.coord.Publish(env, nil, script) }
}

func (h *partHost) isPlugged() bool {
	st, err := h.socket().Status(h.t.Context())
	if err != nil || len(st.Profiles) != 1 {
		return false
	}
	p := st.Profiles[0]
	return p.State == fleet.StateConfirmed && p.Current.Digest == h.ref.Digest
}

// applies hands the next generation over; once that was taken, it runs.
func (h *partHost) applies() error {
	if h.isConfirmed() {
		return nil
	}
	if h.room == 0 {
		h.brim()
	}
	if _, _, err := h.client().Apply(h.t.Context(), bytes.NewReader(h.file)); err != nil {
		return err //nolint:wrapcheck // It is looked at as it is.
	}
	h.leave(-1)
	h.poll("what was handed over", h.isConfirmed)
	return nil
}

// moves is a host whose fleet has another trust root.
func (h *partHost) moves() {
	h.t.Helper()
	h.runs()
	h.elsewhere = agenttest.NewFleet(h.t)
}

func (h *partHost) resets() error {
	if h.fleet.RootPin == h.elsewhere.RootPin {
		return nil
	}
	if _, err := h.client().ResetTrust(h.t.Context(), h.elsewhere.Roots[0], h.elsewhere.RootPin); err != nil {
		// The old root's keys may not have more taken meanwhile, where numbers count anew.
		st := h.agent.journal.State()
		if _, _, aerr := h.client().Apply(h.t.Context(), bytes.NewReader(h.file)); st.Reset != nil && (aerr == nil || !strings.Contains(aerr.Error(), "has not come to its end")) {
			h.t.Errorf("in the midst of the reset: %v", aerr)
		}
		return err //nolint:wrapcheck // As above.
	}
	h.fleet.Roots, h.fleet.Release, h.fleet.RootPin = h.elsewhere.Roots, h.elsewhere.Release, h.elsewhere.RootPin
	return nil
}
