package registry

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func refOf(n uint64) fleet.Ref {
	number := fleet.Number{Epoch: 1, Seq: n}
	return fleet.Ref{Number: number, Digest: fleet.DigestOf([]byte(number.String()))}
}

// TestApply sends the reports of a host in any order, again and again, as lost
// answers make it do, and checks that every transition is taken exactly once.
func TestApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const total = 60
		var o Observed
		var taken []uint64
		sent := uint64(0)
		for sent < total {
			// The host sends from what was acknowledged on, or from further back.
			from := rapid.Uint64Range(0, o.Acked).Draw(t, "from")
			to := rapid.Uint64Range(o.Acked, min(o.Acked+10, total)).Draw(t, "to")
			r := &fleet.Report{InstanceID: "i", Mode: fleet.ModeManage, Profiles: []fleet.ProfileStatus{{Profile: fleet.System}}}
			for seq := from + 1; seq <= to; seq++ {
				r.Transitions = append(r.Transitions, fleet.Transition{Seq: seq, Profile: fleet.System, State: fleet.StateConfirmed, Ref: refOf(seq)})
			}
			next, fresh := o.Apply(r)
			for _, f := range fresh {
				taken = append(taken, f.Seq)
				next.Acked = f.Seq
			}
			o, sent = next, max(sent, to)
		}
		for i, seq := range taken {
			if seq != uint64(i)+1 {
				t.Fatalf("taken: %v", taken)
			}
		}
		refs := o.Confirmed[fleet.System]
		if len(refs) > maxConfirmed || refs[0] != refOf(total) ||
			!slices.IsSortedFunc(refs, func(a, b fleet.Ref) int { return b.Number.Compare(a.Number) }) {
			t.Fatalf("confirmed: %v", refs)
		}
	})
}

func TestAnotherJournalCountsAnew(t *testing.T) {
	o := Observed{Instance: "old", Acked: 70}
	r := &fleet.Report{InstanceID: "new", Transitions: []fleet.Transition{{Seq: 1, Profile: fleet.System}}}
	if _, fresh := o.Apply(r); len(fresh) != 1 {
		t.Errorf("%d transitions of a new instance, want 1", len(fresh))
	}
}

func TestApplySharesNothing(t *testing.T) {
	report := func(n uint64) *fleet.Report {
		return &fleet.Report{InstanceID: "i", Profiles: []fleet.ProfileStatus{{Profile: fleet.System, Confirmed: refOf(n)}}}
	}
	first, _ := Observed{}.Apply(report(1))
	second, _ := first.Apply(report(2))
	if len(first.Confirmed[fleet.System]) != 1 || len(second.Confirmed[fleet.System]) != 2 {
		t.Errorf("first %v, second %v", first.Confirmed, second.Confirmed)
	}
}
