package journal

import (
	"bufio"
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// anyRecord draws a record that often, but not always, fits.
func anyRecord(t *rapid.T, s *State) Record {
	p := s.Profile(fleet.System)
	n := rapid.Uint64Range(1, 8).Draw(t, "n")
	kinds := []Kind{
		KindAdopt, KindAccept, KindStaged, KindActivating, KindActivating, KindActivated, KindActivated, KindVerified,
		KindVerified, KindCommitted, KindConfirmed, KindWithdrawn, KindRollingBack, KindRolledBack, KindRolledBack,
		KindRollbackFailed, KindFailed, KindRefused, KindForgiven, KindHeld, KindUnheld, KindPaused,
		KindResumed, KindMode, KindFloor, KindRoot, KindAck, KindApplied, KindTrustReset,
		KindLoosened, KindRollBackAsked,
	}
	r := about(rapid.SampledFrom(kinds).Draw(t, "kind"), because(fleet.ReasonProbeFailed))
	switch r.Kind {
	case KindAdopt:
		r.Built = &p.Current
		if rapid.Bool().Draw(t, "local change") {
			r.Built = &Built{Path: "/local"}
		}
	case KindAccept:
		r = accept(p.Highest.Number.Seq+rapid.Uint64Range(0, 2).Draw(t, "up"), n)
	case KindStaged:
		r = staged(min(n, max(1, p.Highest.Number.Seq)))
	case KindActivating:
		to := built(n)
		if !p.Staged.Ref.IsZero() && rapid.Bool().Draw(t, "the staged one") {
			to = p.Staged
		}
		r.Activation = &Activation{ID: "x", From: p.Current, To: to}
		if rapid.Bool().Draw(t, "to last-good") {
			r.Activation.RollbackTo = &p.LastGood
		}
	case KindRollingBack:
		r.Blameless = rapid.Bool().Draw(t, "blameless")
	case KindFailed, KindRefused:
		r.Ref = ref(n)
	case KindForgiven:
		r = forgiven(n, rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "document"))
	case KindMode:
		r = Record{Kind: KindMode, Mode: rapid.SampledFrom([]fleet.Mode{"observe", "manage", "wild"}).Draw(t, "mode")}
	case KindFloor:
		r = Record{Kind: KindFloor, Floor: time.Unix(rapid.Int64Range(0, 9).Draw(t, "floor"), 0).UTC()}
	case KindRoot:
		r = Record{Kind: KindRoot, Root: &Root{Version: n}}
		if s.Reset != nil && rapid.Bool().Draw(t, "the one to start from") {
			r.Root = s.Reset
		}
	case KindTrustReset:
		r = Record{Kind: KindTrustReset, Root: &Root{Version: n, Digest: fleet.DigestOf([]byte{byte(n)})}}
	case KindLoosened:
		r.Loosening, r.Expires = fleet.DigestOf([]byte{byte(n)}), time.Unix(9, 0).UTC()
	case KindRollBackAsked:
		r.Digest = p.Current.Ref.Digest
	case KindApplied:
		r.Ref = ref(n)
	case KindAck:
		r = Record{Kind: KindAck, Acked: rapid.Uint64Range(0, s.Transitions+1).Draw(t, "acked")}
	case KindWithdrawn, KindActivated, KindVerified, KindCommitted, KindConfirmed, KindRolledBack, KindRollbackFailed,
		KindHeld, KindUnheld, KindPaused, KindResumed, KindSnapshot, KindPending:
	}
	return r
}

// invariants holds a state, and the step that led to it, to what must always be.
func invariants(t *rapid.T, before, after *State, kind Kind) {
	anew := before.Reset != nil && after.Reset == nil
	if after.Floor.Before(before.Floor) || after.Root.Version < before.Root.Version && !anew || after.Acked < before.Acked ||
		after.Transitions < before.Transitions {
		t.Fatalf("something went down: %+v, then %+v", before, after)
	}
	next := after.Acked
	for _, tr := range after.outbox {
		if tr.Seq <= next {
			t.Fatalf("transition %d is pending after %d", tr.Seq, next)
		}
		next = max(next, tr.Seq)
	}
	if n := len(after.outbox); n > 0 && after.outbox[n-1].Seq != after.Transitions {
		t.Fatalf("the newest transition is %d, pending up to %d", after.Transitions, after.outbox[n-1].Seq)
	}
	was, is := before.Profile(fleet.System), after.Profile(fleet.System)
	if is.Highest.Number.Compare(was.Highest.Number) < 0 && kind != KindTrustReset {
		t.Fatalf("highest went down from %v to %v", was.Highest, is.Highest)
	}
	if _, ok := is.IsRefused(is.LastGood.Ref.Digest); ok {
		t.Fatalf("last-good %v is refused", is.LastGood)
	}
	for _, b := range is.History {
		if _, ok := is.IsRefused(b.Ref.Digest); ok {
			t.Fatalf("%v is in the history and refused", b)
		}
	}
	if _, ok := is.IsRefused(is.Staged.Ref.Digest); ok {
		t.Fatalf("staged %v is refused", is.Staged)
	}
	if is.Undone.Ref.Number.Compare(is.Highest.Number) > 0 {
		t.Fatalf("undone %v is kept, but %v is the highest", is.Undone, is.Highest)
	}
	switch is.Phase {
	case PhaseActivating, PhaseActivated, PhaseRollingBack:
		if is.Activation == nil {
			t.Fatalf("%s without an activation", is.Phase)
		}
	case PhaseIdle, PhaseAccepted, PhaseStaged, PhaseRolledBack, PhaseStuck, PhaseFailed:
		if is.Activation != nil {
			t.Fatalf("%s with an activation", is.Phase)
		}
	case PhaseVerified, PhaseConfirmed: // until committed
		if !is.CurrentVerified() {
			if _, ok := is.IsRefused(is.Current.Ref.Digest); !ok && is.Phase == PhaseVerified {
				t.Fatalf("%s, but %v isn't in the history", is.Phase, is.Current)
			}
		}
	}
	if is.Superseded != nil && is.Phase != PhaseActivating {
		t.Fatalf("%s, and yet another activation is superseded", is.Phase)
	}
	if is.Current != was.Current && kind != KindAdopt && kind != KindActivated && kind != KindRolledBack {
		t.Fatalf("%s moved what runs from %v to %v", kind, was.Current, is.Current)
	}
	if len(is.History) > MaxHistory || len(is.Refused) > MaxRefused {
		t.Fatalf("%d in the history, %d refused", len(is.History), len(is.Refused))
	}
}

func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := newState()
		var lines []byte
		cutAt := rapid.IntRange(0, 60).Draw(t, "compact after")
		var fromSnapshot []byte
		for i := range rapid.IntRange(1, 80).Draw(t, "records") {
			r := anyRecord(t, s)
			r.Seq, r.Time = s.Seq+1, time.Unix(int64(i), 0).UTC()
			if _, is := r.Kind.transition(); is {
				r.Transition = s.Transitions + 1
			}
			line, err := encode([]Record{r})
			if err != nil {
				t.Fatal(err)
			}
			before, next := s.clone(), s.draft()
			recs, err := decode(line[:len(line)-1])
			if err != nil {
				t.Fatal(err)
			}
			err = apply(next, &recs[0])
			if diff := cmp.Diff(before, s, allFields); diff != "" {
				t.Fatalf("a draft changed its origin: %s", diff)
			}
			switch {
			case err == nil:
				invariants(t, before, next, r.Kind)
				s = next
				lines, fromSnapshot = append(lines, line...), append(fromSnapshot, line...)
			case !errors.Is(err, ErrRecord) && !errors.Is(err, ErrInFlight) && !errors.Is(err, ErrRefused) &&
				!errors.Is(err, ErrNumber) && !errors.Is(err, ErrUsed):
				t.Fatalf("%s: %v", r.Kind, err)
			}
			if i == cutAt {
				snap, err := compacted(s, Record{Time: time.Unix(int64(i), 0).UTC()})
				if err != nil {
					t.Fatal(err)
				}
				fromSnapshot = bytes.Join(snap, nil)
			}
		}
		for what, data := range map[string][]byte{"all": lines, "snapshot and rest": fromSnapshot} {
			got, err := scan(bytes.NewReader(data), "test")
			if err != nil || got.torn != 0 {
				t.Fatalf("%s: %d torn, %v", what, got.torn, err)
			}
			got.state.restoring, s.restoring = false, false
			if diff := cmp.Diff(s, got.state, allFields); diff != "" {
				t.Fatalf("fold of %s differs (-want +got):\n%s", what, diff)
			}
		}
		// However it is cut, a prefix of whole lines is read.
		n := rapid.IntRange(0, len(lines)).Draw(t, "cut")
		got, err := scan(bytes.NewReader(lines[:n]), "test")
		if err != nil || got.good+got.torn != int64(n) || got.good != int64(bytes.LastIndexByte(lines[:n], '\n')+1) {
			t.Fatalf("cut at %d: %+v, %v", n, got, err)
		}
	})
}

func FuzzScan(f *testing.F) {
	var whole []byte
	s := newState()
	for _, r := range join(adopt(0), through(0, 1), accept(2), activating(1, 2), Record{Kind: KindAck, Acked: 3}) {
		r.Seq, r.Time = s.Seq+1, time.Unix(1, 0).UTC()
		if _, is := r.Kind.transition(); is {
			r.Transition = s.Transitions + 1
		}
		if err := apply(s, &r); err != nil {
			f.Fatal(err)
		}
		line, err := encode([]Record{r})
		if err != nil {
			f.Fatal(err)
		}
		whole = append(whole, line...)
	}
	snap, err := compacted(s, Record{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, false)
	f.Add(bytes.Join(snap, nil), false)
	f.Add(whole[:len(whole)-5], false)
	f.Add([]byte(`[{"seq":1,"kind":"snapshot","snapshot":{"seq":1,"profiles":{"system":null}}}]`), true)
	f.Add([]byte(`[{"seq":1,"kind":"accept","profile":"system","transition":1}]`), true)
	f.Add([]byte("00000000 \n\n"), false)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal { // each line gets the checksum that a random change can't find
			var sealed []byte
			for l := range bytes.Lines(data) {
				sealed = append(sealed, seal8(bytes.TrimSuffix(l, []byte("\n")))...)
			}
			data = sealed
		}
		got, err := scan(bytes.NewReader(data), "test")
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
			return
		}
		if got.good+got.torn != int64(len(data)) {
			t.Fatalf("%d good and %d torn of %d bytes", got.good, got.torn, len(data))
		}
		// What was read can be written again and reads the same.
		lines, err := compacted(got.state, Record{})
		if err != nil {
			return // a time that JSON can't carry
		}
		again, err := scan(bufio.NewReader(bytes.NewReader(bytes.Join(lines, nil))), "test")
		if err != nil {
			if got.state.Seq == 0 {
				return
			}
			t.Fatal(err)
		}
		got.state.restoring, again.state.restoring = false, false
		if diff := cmp.Diff(got.state, again.state, allFields); diff != "" {
			t.Error(diff)
		}
	})
}

func seal8(line []byte) []byte {
	out := append([]byte("00000000 "), line...)
	const digits = "0123456789abcdef"
	for i, b := range checksum(line) {
		out[2*i], out[2*i+1] = digits[b>>4], digits[b&15]
	}
	return append(out, '\n')
}
