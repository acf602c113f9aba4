package deadman

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
)

// TestUnits: a switch that systemd starts is a service of its own, with a name that
// none had before.
func TestUnits(t *testing.T) {
	s := systemdtest.Start(t)
	u := Units{Command: []string{"/kept", "dead-man-switch"}, Systemd: s.Address}
	for _, ahead := range []bool{false, true} {
		if err := u.Start(t.Context(), "/state/dead-man/system", "/log", ahead); err != nil {
			t.Fatal(err)
		}
	}
	s.Do(func() {
		if len(s.Started) != 2 {
			t.Errorf("%d services", len(s.Started))
		}
		for name, settings := range s.Started {
			want := [][]any{{"/kept", []string{"/kept", "dead-man-switch", "/state/dead-man/system"}, false}}
			if diff := cmp.Diff(want, settings["ExecStart"]); diff != "" || !strings.HasPrefix(name, "fleet-dead-man-system-") {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		s.Result = "failed"
	})
	if err := u.Start(t.Context(), "/state/dead-man/system", "/log", false); err == nil || !strings.Contains(err.Error(), "fleet-dead-man-system-") {
		t.Errorf("got %v", err)
	}
	if err := u.Start(t.Context(), "/state/dead-man/system", "/log", true); err != nil {
		t.Errorf("nobody waits for it, and %v", err)
	}
}
