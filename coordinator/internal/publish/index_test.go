package publish

import (
	"bytes"
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func genOf(seq uint64, note string) *Gen {
	n := fleet.Number{Epoch: 1, Seq: seq}
	return &Gen{Machine: "galena", Profile: fleet.System, Ref: fleet.Ref{Number: n, Digest: fleet.DigestOf([]byte(n.String() + note))}}
}

// TestIndexOrder adds generations in any order, some of them twice: the newest
// is the highest, and as many are kept as may be.
func TestIndexOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seqs := rapid.SliceOfN(rapid.Uint64Range(1, 100), 1, 80).Draw(t, "seqs")
		x := newIndex()
		distinct := map[uint64]bool{}
		dropped := 0
		for _, s := range seqs {
			distinct[s] = true
			dropped += len(x.add(genOf(s, "")))
		}
		l := x.line("galena", fleet.System)
		if got, want := l.newest().Ref.Number.Seq, slices.Max(seqs); got != want {
			t.Fatalf("newest is %d, want %d", got, want)
		}
		if !slices.IsSortedFunc(l.gens, func(a, b *Gen) int { return cmp.Compare(b.Ref.Number.Seq, a.Ref.Number.Seq) }) {
			t.Fatal("not sorted")
		}
		if len(l.gens) != min(len(distinct), keptGenerations) && dropped == 0 {
			t.Fatalf("%d kept of %d", len(l.gens), len(distinct))
		}
	})
}

func TestEqualNumberStaysBehind(t *testing.T) {
	x := newIndex()
	first := genOf(3, "first")
	x.add(first)
	x.add(genOf(3, "second"))
	if x.line("galena", fleet.System).newest() != first {
		t.Error("a second generation with the same number became desired")
	}
}

func TestRevertEndsWithNewerGeneration(t *testing.T) {
	x := newIndex()
	one, two := genOf(1, ""), genOf(2, "")
	x.add(one, two)
	x.reverts[profileKey{"galena", fleet.System}] = Revert{Newest: two.Ref.Digest, Target: one.Ref}
	if d := x.desired("galena"); d[0].Revert != one || d[0].Newest != two {
		t.Errorf("desired: %+v", d[0])
	}
	x.add(genOf(3, ""))
	if d := x.desired("galena"); d[0].Revert != nil {
		t.Error("the revert outlives the generation that it is from")
	}
}

func TestRollbackTarget(t *testing.T) {
	refs := []fleet.Ref{genOf(1, "").Ref, genOf(2, "").Ref, genOf(3, "").Ref}
	newest := genOf(4, "")
	newest.RevertTo = []fleet.Ref{refs[0], refs[1], newest.Ref}
	for name, tt := range map[string]struct {
		confirmed []fleet.Ref
		want      fleet.Ref
		ok        bool
	}{
		"none confirmed":       {nil, fleet.Ref{}, false},
		"newest of two":        {[]fleet.Ref{refs[0], refs[1]}, refs[1], true},
		"only the older":       {[]fleet.Ref{refs[0]}, refs[0], true},
		"not in the set":       {[]fleet.Ref{refs[2]}, fleet.Ref{}, false},
		"never to itself":      {[]fleet.Ref{newest.Ref}, fleet.Ref{}, false},
		"set wins over newest": {[]fleet.Ref{refs[2], refs[0]}, refs[0], true},
	} {
		if got, ok := rollbackTarget(newest, tt.confirmed); got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %v, %t", name, got, ok)
		}
	}
}

func FuzzDecodePair(f *testing.F) {
	f.Add(encodePair([]byte("generation"), []byte("secrets")))
	f.Add(encodePair([]byte("generation"), nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		g, s, err := decodePair(b)
		if err != nil {
			return
		}
		if !bytes.Equal(encodePair(g, s), b) {
			t.Errorf("%x becomes %x and %x", b, g, s)
		}
	})
}
