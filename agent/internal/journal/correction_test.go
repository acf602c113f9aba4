package journal

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// correcting begins to undo what a person made of a generation.
func correcting(n uint64) Record {
	return about(KindActivating, func(r *Record) {
		r.Activation = activation(n, n)
		r.Activation.Undoes = &ByHand{Made: Built{Path: "/by/hand"}, Runs: "/by/hand", Boots: "/by/hand"}
	})
}

// correctionFailed goes back from it.
func correctionFailed() Record {
	r := about(KindRollingBack, because(fleet.ReasonCorrectionFailed))
	r.Blameless = true
	return r
}

// knowsNone folds records as an agent that knows no corrections does.
func knowsNone(t *testing.T, recs []Record) *State {
	t.Helper()
	var older []Record
	for _, r := range recs {
		if r.Activation != nil {
			a := r.Activation.clone()
			a.Undoes = nil
			r.Activation = a
		}
		older = append(older, r)
	}
	s, err := fold(older)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCorrections: nothing on record moves but what is known of the correction, and an
// older agent reads the same of the same records.
func TestCorrections(t *testing.T) {
	t.Parallel()
	good := join(adopt(0), through(0, 1), through(1, 2))
	once := func(parts ...any) []Record { return join(staged(2), correcting(2), join(parts...)) }
	back := plain(KindRolledBack)
	for name, row := range map[string]struct {
		recs   []Record
		failed fleet.ReasonCode
		short  int
	}{
		"works":                      {once(plain(KindActivated, KindVerified, KindCommitted)), "", 0},
		"fails":                      {once(correctionFailed(), back), fleet.ReasonCorrectionFailed, 0},
		"fails when it was verified": {once(plain(KindActivated, KindVerified), correctionFailed(), back), fleet.ReasonCorrectionFailed, 0},
		"is cut short":               {once(interrupted(), back), "", 1},
		"is cut short, then works":   {join(once(interrupted(), back), once(plain(KindActivated, KindVerified, KindCommitted))), "", 0},
		"is cut short twice":         {join(once(interrupted(), back), once(interrupted(), back)), fleet.ReasonActivationUnknown, 2},
		"is withdrawn":               {once(plain(KindWithdrawn)), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recs := join(good, row.recs)
			s, err := fold(recs)
			if err != nil {
				t.Fatal(err)
			}
			p := s.Profiles[fleet.System]
			if !p.Current.Is(ref(2)) || !p.LastGood.Is(ref(1)) || len(p.Refused) > 0 || !p.CurrentVerified() {
				t.Errorf("%+v", p)
			}
			if c := p.Corrected; c == nil || c.Failed.Code != row.failed || c.CutShort != row.short || c.Time.IsZero() != (name == "is withdrawn") {
				t.Errorf("corrected: %+v", c)
			}
			if diff := cmp.Diff(knowsNone(t, recs), s, cmp.AllowUnexported(State{}), cmpopts.IgnoreFields(ProfileState{}, "Corrected")); diff != "" {
				t.Error(diff)
			}

			// A person, or another generation, ends what is known of it.
			for _, after := range [][]Record{join(forgiven(2, "")), through(2, 3)} {
				s, err := fold(join(recs, after))
				if err != nil {
					t.Fatal(err)
				}
				if c := s.Profiles[fleet.System].Corrected; c != nil {
					t.Errorf("after it: %+v", c)
				}
			}
		})
	}
	if MaxCutShort >= MaxInterrupted {
		t.Error("an older agent would refuse a generation that a person switched away from")
	}
}

// TestCorrectionIsCopied: what is handed out is not linked to what is kept.
func TestCorrectionIsCopied(t *testing.T) {
	t.Parallel()
	s, err := fold(join(adopt(0), through(0, 1), staged(1), correcting(1)))
	if err != nil {
		t.Fatal(err)
	}
	before, c := s.clone(), s.Profile(fleet.System)
	c.Corrected.Time, c.Activation.Undoes.Runs = time.Time{}, "changed"
	if diff := cmp.Diff(before, s, cmp.AllowUnexported(State{})); diff != "" {
		t.Error(diff)
	}
}
