package journal

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestDegraded: what failed of what runs is known until something else runs, and nothing
// else is folded otherwise for it, by an older agent neither.
func TestDegraded(t *testing.T) {
	t.Parallel()
	but := func(what string) func(*Record) { return func(r *Record) { r.Degraded = what } }
	activated := about(KindActivated, func(r *Record) {
		r.Reason = fleet.Reason{Code: fleet.ReasonDegraded, Message: "brew"}
	})
	begun := join(adopt(0), through(0, 1), accept(2), staged(2), activating(1, 2))
	for name, row := range map[string]struct {
		recs []Record
		want string
	}{
		"activated":                 {join(begun, activated), "brew"},
		"committed":                 {join(begun, activated, plain(KindVerified, KindCommitted)), "brew"},
		"adopted anew":              {join(begun, activated, plain(KindVerified, KindCommitted), adopt(9)), ""},
		"gone back":                 {join(begun, activated, about(KindRollingBack, because(fleet.ReasonProbeFailed)), plain(KindRolledBack)), ""},
		"gone back, but for a part": {join(begun, activated, about(KindRollingBack, because(fleet.ReasonProbeFailed)), about(KindRolledBack, but("agents"))), "agents"},
		"not gone back":             {join(begun, activated, about(KindRollingBack, because(fleet.ReasonProbeFailed)), about(KindRollbackFailed, but("agents"))), "brew"},
		"after that, another one":   {join(begun, activated, about(KindRollingBack, because(fleet.ReasonProbeFailed)), about(KindRolledBack, but("agents")), through(1, 3)), ""},
		"another one":               {join(begun, activated, plain(KindVerified, KindCommitted), through(2, 3)), ""},
		"for another reason":        {join(begun, about(KindActivated, because(fleet.ReasonRevert))), ""},
		"as if all went well":       {join(begun, plain(KindActivated)), ""},
		"one that is not done":      {begun, ""},
	} {
		s, err := fold(row.recs)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p := s.Profile(fleet.System)
		if p.Degraded != row.want {
			t.Errorf("%s: %q, want %q", name, p.Degraded, row.want)
		}
		var older []Record
		for _, r := range row.recs {
			if r.Kind == KindActivated {
				r.Reason = fleet.Reason{}
			}
			r.Degraded = ""
			older = append(older, r)
		}
		o, err := fold(older)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(o.Profile(fleet.System), p, cmpopts.IgnoreFields(ProfileState{}, "Degraded", "Reason"), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-older +newer):\n%s", name, d)
		}
	}
}
