package publish

import (
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestStatementAdds: hosts are woken for what they don't know, and not each time that
// the same is stated again.
func TestStatementAdds(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	state := func(change func(*fleet.Freshness)) statement {
		s := statement{doc: fleet.Freshness{
			Root: 2, Issued: now, Expires: now.Add(time.Hour),
			Highest: map[fleet.ProfileName]fleet.Ref{fleet.System: {Number: fleet.Number{Epoch: 1, Seq: 7}, Digest: fleet.DigestOf([]byte("7"))}},
		}}
		change(&s.doc)
		return s
	}
	same := func(*fleet.Freshness) {}
	for name, tt := range map[string]struct {
		old  statement
		want bool
	}{
		"the first":                  {statement{}, true},
		"the same":                   {state(same), false},
		"the same, and ends sooner":  {state(func(f *fleet.Freshness) { f.Expires = now.Add(time.Minute) }), false},
		"the same, a minute younger": {state(func(f *fleet.Freshness) { f.Issued = now.Add(-time.Minute) }), false},
		"the same, an hour younger":  {state(func(f *fleet.Freshness) { f.Issued = now.Add(-time.Hour) }), true},
		"after one that has ended":   {state(func(f *fleet.Freshness) { f.Expires = now }), true},
		"of another root":            {state(func(f *fleet.Freshness) { f.Root = 1 }), true},
		"of another generation": {state(func(f *fleet.Freshness) {
			f.Highest = map[fleet.ProfileName]fleet.Ref{fleet.System: {Number: fleet.Number{Epoch: 1, Seq: 6}}}
		}), true},
		"of a profile more than before": {state(func(f *fleet.Freshness) { f.Highest = nil }), true},
	} {
		if got := state(same).adds(tt.old, now); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
