package journal

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestWithdrawn: but for the journal's own account, it is as if the intent had
// never been, however often.
func TestWithdrawn(t *testing.T) {
	t.Parallel()
	ready := join(adopt(0), through(0, 1), accept(2), staged(2))
	kept := join(adopt(0), through(0, 1), accept(2), staged(2), activating(1, 2), plain(KindActivated), accept(3), staged(3))
	past := about(KindActivating, func(r *Record) { r.Activation = activation(2, 3); r.Activation.RollbackTo = builtp(1) })
	for _, tc := range []struct {
		name   string
		before []Record
		intent Record
	}{
		{"what lies ready", ready, activating(1, 2)},
		{"after an interruption", join(ready, activating(1, 2), interrupted(), plain(KindRolledBack)), activating(1, 2)},
		{"what superseded one that is kept", kept, past},
		{"the first of all", join(adopt(0), accept(1), staged(1)), activating(0, 1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			recs := tc.before
			for range MaxInterrupted + 1 {
				recs = join(recs, tc.intent, about(KindWithdrawn, because(fleet.ReasonPaused)))
			}
			want, err := fold(tc.before)
			if err != nil {
				t.Fatal(err)
			}
			got, err := fold(recs)
			if err != nil {
				t.Fatal(err)
			}
			was, is := want.Profile(fleet.System), got.Profile(fleet.System)
			if is.Reason.Code != fleet.ReasonPaused {
				t.Errorf("reason: %+v", is.Reason)
			}
			ignore := cmpopts.IgnoreFields(ProfileState{}, "Reason", "Since")
			if was.Phase == PhaseRolledBack { // it lies ready now, and was tried before
				was.Phase = PhaseStaged
			}
			if diff := cmp.Diff(was, is, ignore); diff != "" {
				t.Errorf("withdrawn differs (-before +after):\n%s", diff)
			}
			last := got.outbox[len(got.outbox)-1]
			if last.State != fleet.StateStaged || last.Ref != tc.intent.Activation.To.Ref || last.Reason.Code != fleet.ReasonPaused {
				t.Errorf("transition: %+v", last)
			}
		})
	}
}

func TestWithdrawnRefuses(t *testing.T) {
	t.Parallel()
	begun := join(adopt(0), accept(1), activating(0, 1))
	for name, recs := range map[string][]Record{
		"nothing":              join(adopt(0), accept(1)),
		"what was activated":   join(begun, plain(KindActivated)),
		"what is rolled back":  join(begun, rollingBack()),
		"what was withdrawn":   join(begun, plain(KindWithdrawn)),
		"what superseded none": join(begun, plain(KindActivated, KindVerified)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := fold(recs); err != nil {
				t.Fatal(err)
			}
			if _, err := fold(join(recs, plain(KindWithdrawn))); !errors.Is(err, ErrRecord) {
				t.Errorf("got %v, want %v", err, ErrRecord)
			}
		})
	}
}

// TestWithdrawnRefused: what was refused meanwhile does not lie ready.
func TestWithdrawnRefused(t *testing.T) {
	t.Parallel()
	s, err := fold(join(adopt(0), accept(1), staged(1), activating(0, 1), refused(1), plain(KindWithdrawn)))
	if err != nil {
		t.Fatal(err)
	}
	if p := s.Profile(fleet.System); p.Phase != PhaseFailed || p.Staged != (Built{}) || p.Undone.Ref != ref(1) {
		t.Errorf("%s, staged %v, undone %v", p.Phase, p.Staged, p.Undone)
	}
}
