package publisher

import (
	"slices"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestCriticalRules: a rule that an older agent would skip is critical, once, and what
// was listed before stays.
func TestCriticalRules(t *testing.T) {
	before := []string{fleet.CriticalPlugins, "policy.freshness"}
	gen := fleet.Generation{Critical: before, Policy: fleet.Policy{
		Freshness: fleet.Duration(time.Hour), Console: fleet.ConsolePolicy{Power: fleet.PowerAC},
	}}
	if got, want := criticalRules(gen), append(slices.Clone(before), fleet.CriticalConsole); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := criticalRules(fleet.Generation{}); len(got) != 0 {
		t.Errorf("of no rules: %q", got)
	}
}
