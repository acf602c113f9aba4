package journal

import (
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestUndone: what was rolled back last is kept for another attempt, until a
// higher generation is accepted.
func TestUndone(t *testing.T) {
	t.Parallel()
	bad := join(adopt(0), through(0, 1), accept(2), staged(2), activating(1, 2), rollingBack(), plain(KindRolledBack))
	back := join(adopt(0), through(0, 1), through(1, 2), activating(2, 1),
		plain(KindActivated, KindVerified), refused(2), plain(KindCommitted, KindConfirmed))
	for _, tc := range []struct {
		name           string
		recs           []Record
		undone, staged uint64
	}{
		{name: "rolled back", recs: bad, undone: 2},
		{name: "rollback failed", recs: join(bad[:len(bad)-1], plain(KindRollbackFailed)), undone: 2},
		{name: "forgiven", recs: join(bad, forgiven(2, "")), staged: 2},
		{name: "another one forgiven", recs: join(bad, forgiven(1, "")), undone: 2},
		{name: "tried again", recs: join(bad, forgiven(2, ""), activating(1, 2))},
		{name: "failed again", recs: join(bad, forgiven(2, ""), activating(1, 2), rollingBack(), plain(KindRolledBack)), undone: 2},
		{name: "built again", recs: join(bad, forgiven(2, ""), staged(2)), staged: 2},
		{name: "a higher one came", recs: join(bad, accept(3))},
		{name: "a higher one came, and forgiven", recs: join(bad, accept(3), forgiven(2, ""))},
		{
			name: "something else lies ready",
			recs: join(bad, staged(1), forgiven(2, "")), undone: 2, staged: 1,
		},
		{
			name: "not the highest",
			recs: join(adopt(0), through(0, 1), through(1, 2), activating(2, 1), rollingBack(), plain(KindRolledBack)), undone: 1,
		},
		{name: "sent back from it", recs: back, undone: 2},
		{name: "sent back from it, and forgiven", recs: join(back, forgiven(2, "")), staged: 2},
		{name: "sent back from it, and a higher one came", recs: join(back, accept(3))},
		{
			name: "what enrolment found",
			recs: join(adopt(0), activating(0, 0), rollingBack(), plain(KindRolledBack)),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, err := fold(tc.recs)
			if err != nil {
				t.Fatal(err)
			}
			p := s.Profile(fleet.System)
			if p.Undone.Ref != ref(tc.undone) || p.Staged.Ref != ref(tc.staged) {
				t.Errorf("undone %v, staged %v; want %d and %d", p.Undone.Ref, p.Staged.Ref, tc.undone, tc.staged)
			}
		})
	}
}
