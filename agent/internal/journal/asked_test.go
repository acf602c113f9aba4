package journal

import (
	"errors"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestRollBackAsked: a wish to leave what runs counts until it is on its way, or
// something else runs.
func TestRollBackAsked(t *testing.T) {
	t.Parallel()
	good := join(adopt(0), through(0, 1), accept(2), staged(2), through(1, 2))
	asked := func(n uint64) []Record {
		r := about(KindRollBackAsked, because(fleet.ReasonOperatorRefused))
		r.Digest = ref(n).Digest
		return []Record{r}
	}
	for _, tc := range []struct {
		name  string
		after []Record
		want  bool
	}{
		{"at once", nil, true},
		{"while the next one is fetched", join(accept(3), staged(3)), true},
		{"once it is on its way", join(activating(2, 2), rollingBack()), false},
		{"once another one runs", join(accept(3), staged(3), through(2, 3)), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := fold(join(good, asked(2), tc.after))
			if err != nil {
				t.Fatal(err)
			}
			p := got.Profile(fleet.System)
			if (p.Asked != nil) != tc.want {
				t.Errorf("asked: %+v", p.Asked)
			}
			if p.Asked != nil && p.Asked.Reason.Code != fleet.ReasonOperatorRefused {
				t.Errorf("reason: %+v", p.Asked.Reason)
			}
		})
	}
	if _, err := fold(join(good, asked(1))); !errors.Is(err, ErrRecord) {
		t.Errorf("a wish about what does not run: %v", err)
	}
}
