package journal

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func ref(n uint64) fleet.Ref {
	if n == 0 {
		return fleet.Ref{}
	}
	return fleet.Ref{
		Number: fleet.Number{Epoch: 1, Seq: n}, Digest: fleet.DigestOf(fmt.Append(nil, n)),
		Release: fleet.ReleaseID(fmt.Sprint("r", n)),
	}
}

func built(n uint64) Built {
	return Built{Ref: ref(n), Path: fmt.Sprintf("/store/%d", n), Secrets: fmt.Sprintf("/secrets/%d", n)}
}

func builtp(n uint64) *Built { b := built(n); return &b }

func activation(from, to uint64) *Activation {
	run := func(what string) driver.Action {
		return driver.Action{Deadline: time.Minute, Steps: []driver.Step{
			{Exec: &driver.Exec{Argv: []string{built(to).Path + "/" + what}, Env: []string{"A=b"}, OKCodes: []int{4}}},
			{Link: &driver.Link{Path: "/link", Target: built(to).Path}},
		}}
	}
	return &Activation{
		ID: fmt.Sprintf("%d-%d", from, to), From: built(from), To: built(to),
		Activate: run("activate"), Commit: run("commit"), Rollback: run("rollback"), OnlineBefore: true,
	}
}

func about(k Kind, fill func(*Record)) Record {
	r := Record{Kind: k, Profile: fleet.System}
	if fill != nil {
		fill(&r)
	}
	return r
}

func because(code fleet.ReasonCode) func(*Record) {
	return func(r *Record) { r.Reason = fleet.Reason{Code: code, Message: "because"} }
}

// Short forms of records about the system profile.
func adopt(n uint64) Record { return about(KindAdopt, func(r *Record) { r.Built = builtp(n) }) }

func accept(n uint64, back ...uint64) Record {
	return about(KindAccept, func(r *Record) {
		r.Ref = ref(n)
		for _, b := range back {
			r.RevertTo = append(r.RevertTo, ref(b))
		}
	})
}
func staged(n uint64) Record { return about(KindStaged, func(r *Record) { r.Built = builtp(n) }) }
func activating(from, to uint64) Record {
	return about(KindActivating, func(r *Record) { r.Activation = activation(from, to) })
}

func plain(kinds ...Kind) []Record {
	var out []Record
	for _, k := range kinds {
		out = append(out, about(k, nil))
	}
	return out
}

func rollingBack() Record { return about(KindRollingBack, because(fleet.ReasonProbeFailed)) }
func interrupted() Record {
	r := about(KindRollingBack, because(fleet.ReasonActivationUnknown))
	r.Blameless = true
	return r
}

func refused(n uint64) Record {
	r := about(KindRefused, because(fleet.ReasonOperatorRefused))
	r.Ref = ref(n)
	return r
}

func failed(n uint64) Record {
	r := about(KindFailed, because(fleet.ReasonBuildFailed))
	r.Ref = ref(n)
	return r
}

func forgiven(n uint64, doc string) Record {
	r := about(KindForgiven, nil)
	r.Digest = ref(n).Digest
	if doc != "" {
		r.Loosening = fleet.DigestOf([]byte(doc))
	}
	return r
}

// through is a whole good activation.
func through(from, to uint64) []Record {
	return join(accept(to), staged(to), activating(from, to),
		plain(KindActivated, KindVerified, KindCommitted, KindConfirmed))
}

func join(parts ...any) []Record {
	var out []Record
	for _, p := range parts {
		switch v := p.(type) {
		case Record:
			out = append(out, v)
		case []Record:
			out = append(out, v...)
		}
	}
	return out
}

// fold numbers and folds records; the error is the first one's.
func fold(recs []Record) (*State, error) {
	s := newState()
	for i, r := range recs {
		r.Seq, r.Time = s.Seq+1, time.Unix(int64(i), 0).UTC()
		if _, is := r.Kind.transition(); is {
			r.Transition = s.Transitions + 1
		}
		if err := apply(s, &r); err != nil {
			return s, fmt.Errorf("record %d: %w", i, err)
		}
	}
	return s, nil
}

func TestFold(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name                        string
		recs                        []Record
		phase                       Phase
		current, lastGood, accepted uint64
		confirmed, staged           uint64
		inFlight                    bool
		refused                     []uint64
	}{
		{name: "adopted", recs: join(adopt(0)), phase: PhaseIdle},
		{name: "accepted", recs: join(adopt(0), accept(1)), phase: PhaseAccepted, accepted: 1},
		{name: "staged", recs: join(adopt(0), accept(1), staged(1)), phase: PhaseStaged, accepted: 1, staged: 1},
		{
			name: "activating", recs: join(adopt(0), accept(1), staged(1), activating(0, 1)),
			phase: PhaseActivating, accepted: 1, inFlight: true,
		},
		{
			name: "activated", recs: join(adopt(0), accept(1), staged(1), activating(0, 1), plain(KindActivated)),
			phase: PhaseActivated, current: 1, accepted: 1, inFlight: true,
		},
		{
			name:  "verified",
			recs:  join(adopt(0), accept(1), staged(1), activating(0, 1), plain(KindActivated, KindVerified)),
			phase: PhaseVerified, current: 1, accepted: 1, inFlight: true,
		},
		{name: "confirmed", recs: join(adopt(0), through(0, 1)), phase: PhaseConfirmed, current: 1, accepted: 1, confirmed: 1},
		{
			name: "a newer one arrives midway",
			recs: join(adopt(0), accept(1), staged(1), activating(0, 1), accept(2), staged(2),
				plain(KindActivated, KindVerified, KindCommitted, KindConfirmed)),
			phase: PhaseConfirmed, current: 1, accepted: 2, confirmed: 1, staged: 2,
		},
		{
			name: "a newer one makes what was staged stale",
			recs: join(adopt(0), accept(1), staged(1), accept(2)), phase: PhaseAccepted, accepted: 2,
		},
		{
			name:  "rolling back",
			recs:  join(adopt(0), through(0, 1), accept(2), staged(2), activating(1, 2), plain(KindActivated), rollingBack()),
			phase: PhaseRollingBack, current: 2, lastGood: 1, accepted: 2, confirmed: 1, inFlight: true, refused: []uint64{2},
		},
		{
			name: "rolled back",
			recs: join(adopt(0), through(0, 1), accept(2), staged(2), activating(1, 2), rollingBack(),
				plain(KindRolledBack)),
			phase: PhaseRolledBack, current: 1, accepted: 2, confirmed: 1, refused: []uint64{2},
		},
		{
			name: "rollback failed",
			recs: join(adopt(0), through(0, 1), accept(2), staged(2), activating(1, 2), rollingBack(),
				plain(KindRollbackFailed)),
			phase: PhaseStuck, current: 1, accepted: 2, confirmed: 1, refused: []uint64{2},
		},
		{
			name: "out of stuck",
			recs: join(adopt(0), accept(1), activating(0, 1), rollingBack(), plain(KindRollbackFailed),
				accept(2), activating(0, 2), plain(KindActivated)),
			phase: PhaseActivated, current: 2, accepted: 2, inFlight: true, refused: []uint64{1},
		},
		{
			name:  "an interrupted one may be tried again",
			recs:  join(adopt(0), accept(1), staged(1), activating(0, 1), interrupted(), plain(KindRolledBack)),
			phase: PhaseRolledBack, accepted: 1, staged: 1,
		},
		{
			name: "but not for ever",
			recs: join(adopt(0), accept(1), activating(0, 1), interrupted(), plain(KindRolledBack),
				activating(0, 1), interrupted(), plain(KindRolledBack), activating(0, 1), interrupted(), plain(KindRolledBack)),
			phase: PhaseRolledBack, accepted: 1, refused: []uint64{1},
		},
		{
			name:  "last-good is never a refused one",
			recs:  join(adopt(0), through(0, 1), through(1, 2), refused(1), accept(3)),
			phase: PhaseAccepted, current: 2, accepted: 3, confirmed: 2, refused: []uint64{1},
		},
		{
			name: "an operator's rollback",
			recs: join(adopt(0), through(0, 1), through(1, 2), refused(2), activating(2, 1),
				plain(KindActivated, KindVerified, KindCommitted)),
			phase: PhaseVerified, current: 1, accepted: 2, confirmed: 2, refused: []uint64{2},
		},
		{
			name:  "failed before anything changed",
			recs:  join(adopt(0), through(0, 1), accept(2), failed(2)),
			phase: PhaseFailed, current: 1, accepted: 2, confirmed: 1, refused: []uint64{2},
		},
		{
			name:  "forgiven",
			recs:  join(adopt(0), accept(1), staged(1), failed(1), forgiven(1, "doc")),
			phase: PhaseAccepted, accepted: 1,
		},
		{
			name: "superseded while verification is inconclusive",
			recs: join(adopt(0), accept(1), activating(0, 1), plain(KindActivated), accept(2), activating(1, 2),
				plain(KindActivated, KindVerified, KindCommitted)),
			phase: PhaseVerified, current: 2, accepted: 2,
		},
		{
			name: "a rollback past an unverified one",
			recs: join(adopt(0), through(0, 1), accept(2), activating(1, 2), plain(KindActivated), accept(3),
				about(KindActivating, func(r *Record) { r.Activation = activation(2, 3); r.Activation.RollbackTo = builtp(1) }),
				rollingBack(), plain(KindRolledBack)),
			phase: PhaseRolledBack, current: 1, accepted: 3, confirmed: 1, refused: []uint64{3},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, err := fold(tc.recs)
			if err != nil {
				t.Fatal(err)
			}
			p := s.Profile(fleet.System)
			if p.Phase != tc.phase || (p.Activation != nil) != tc.inFlight {
				t.Errorf("phase %s, in flight %v", p.Phase, p.Activation != nil)
			}
			for what, pair := range map[string][2]fleet.Ref{
				"current": {p.Current.Ref, ref(tc.current)}, "last-good": {p.LastGood.Ref, ref(tc.lastGood)},
				"highest": {p.Highest, ref(tc.accepted)}, "confirmed": {p.Confirmed, ref(tc.confirmed)},
				"staged": {p.Staged.Ref, ref(tc.staged)},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s is %v, want %v", what, pair[0], pair[1])
				}
			}
			if p.Current.Path != built(tc.current).Path {
				t.Errorf("current path %s", p.Current.Path)
			}
			if len(p.Refused) != len(tc.refused) {
				t.Errorf("refused: %v", p.Refused)
			}
			for _, n := range tc.refused {
				if _, ok := p.IsRefused(ref(n).Digest); !ok {
					t.Errorf("%d isn't refused", n)
				}
			}
		})
	}
}

func TestFoldRefuses(t *testing.T) {
	t.Parallel()
	other := accept(2)
	other.Ref.Digest = fleet.DigestOf([]byte("other"))
	for _, tc := range []struct {
		name string
		recs []Record
		want error
	}{
		{"a lower number", join(accept(2), accept(1)), ErrNumber},
		{"a number used twice", join(accept(2), other), ErrNumber},
		{"staging what wasn't accepted", join(accept(2), staged(3)), ErrNumber},
		{"activating what wasn't accepted", join(adopt(0), accept(1), activating(0, 2)), ErrNumber},
		{"two activations", join(adopt(0), accept(1), activating(0, 1), activating(0, 1)), ErrInFlight},
		{
			"an activation before the commit",
			join(adopt(0), accept(1), activating(0, 1), plain(KindActivated, KindVerified), activating(1, 0)), ErrInFlight,
		},
		{"adopting during an activation", join(adopt(0), accept(1), activating(0, 1), adopt(1)), ErrInFlight},
		{"failing what is in flight", join(adopt(0), accept(1), activating(0, 1), failed(1)), ErrInFlight},
		{"activating without a way back", join(accept(1), activating(0, 1)), ErrRecord},
		{"a stale intent", join(adopt(0), through(0, 1), accept(2), activating(0, 2)), ErrRecord},
		{"staging a refused one", join(accept(1), failed(1), staged(1)), ErrRefused},
		{"activating a refused one", join(adopt(0), accept(1), failed(1), activating(0, 1)), ErrRefused},
		{
			"verifying a refused one",
			join(adopt(0), accept(1), activating(0, 1), plain(KindActivated), refused(1), plain(KindVerified)), ErrRefused,
		},
		{"verified out of nothing", join(adopt(0), plain(KindVerified)), ErrRecord},
		{"confirmed before verified", join(adopt(0), accept(1), activating(0, 1), plain(KindActivated, KindConfirmed)), ErrRecord},
		{"rolled back out of nothing", join(adopt(0), plain(KindRolledBack)), ErrRecord},
		{"rolling back twice", join(adopt(0), accept(1), activating(0, 1), rollingBack(), rollingBack()), ErrRecord},
		{"committed twice", join(adopt(0), through(0, 1), plain(KindCommitted)), ErrRecord},
		{"a document twice", join(forgiven(1, "doc"), forgiven(1, "doc")), ErrUsed},
		{"a hold without a reason", plain(KindHeld), ErrRecord},
		{"an unknown kind", plain("mystery"), ErrRecord},
		{"a malformed profile", []Record{{Kind: KindHeld, Profile: "home/../x"}}, ErrRecord},
		{"an unknown mode", []Record{{Kind: KindMode, Mode: "wild"}}, ErrRecord},
		{"an older root", []Record{{Kind: KindRoot, Root: &Root{Version: 2}}, {Kind: KindRoot, Root: &Root{Version: 1}}}, ErrRecord},
		{"acknowledging the future", []Record{{Kind: KindAck, Acked: 1}}, ErrRecord},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if _, err := fold(tc.recs[:len(tc.recs)-1]); err != nil {
				t.Fatal(err)
			}
			if _, err := fold(tc.recs); !errors.Is(err, tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMachineWideRecords(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(100, 0).UTC(), time.Unix(200, 0).UTC()
	s, err := fold([]Record{
		{Kind: KindMode, Mode: fleet.ModeManage},
		{Kind: KindFloor, Floor: late},
		{Kind: KindFloor, Floor: early},
		{Kind: KindRoot, Root: &Root{Version: 3, Digest: "sha256:aa"}},
		{Kind: KindPaused, Actor: "cameron", Reason: fleet.Reason{Message: "lunch"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Mode != fleet.ModeManage || !s.Floor.Equal(late) || s.Root.Version != 3 ||
		s.Paused == nil || s.Paused.Reason != "lunch" || s.Paused.Actor != "cameron" {
		t.Errorf("got %+v", s)
	}
	if s, err = fold([]Record{{Kind: KindPaused}, {Kind: KindResumed}}); err != nil || s.Paused != nil {
		t.Errorf("got %+v, %v", s, err)
	}
	if s := newState(); s.Mode != fleet.ModeObserve || s.Profile("system").Phase != PhaseIdle {
		t.Errorf("at first: %+v", s)
	}
}

func TestHoldsEndWithThePhase(t *testing.T) {
	t.Parallel()
	hold := about(KindHeld, because(fleet.ReasonPaused))
	for _, tc := range []struct {
		next []Record
		held bool
	}{
		{nil, true},
		{plain(KindUnheld), false},
		{join(activating(0, 1)), false},
	} {
		s, err := fold(join(adopt(0), accept(1), staged(1), hold, tc.next))
		if err != nil {
			t.Fatal(err)
		}
		p := s.Profile(fleet.System)
		if (p.Held != nil) != tc.held {
			t.Errorf("after %v: %v", tc.next, p.Held)
		}
	}
}

func TestTransitionsAreTheOutbox(t *testing.T) {
	t.Parallel()
	recs := join(adopt(0), through(0, 1), Record{Kind: KindMode, Mode: fleet.ModeManage},
		accept(2), activating(1, 2), rollingBack(), plain(KindRolledBack))
	s, err := fold(recs)
	if err != nil {
		t.Fatal(err)
	}
	var states []fleet.State
	for i, tr := range s.Pending(0) {
		if tr.Seq != uint64(i)+1 || tr.Profile != fleet.System {
			t.Errorf("transition %d: %+v", i, tr)
		}
		states = append(states, tr.State)
	}
	want := []fleet.State{
		fleet.StateIdle, fleet.StateFetching, fleet.StateStaged, fleet.StateActivating, fleet.StateVerifying,
		fleet.StateVerified, fleet.StateConfirmed, fleet.StateFetching, fleet.StateActivating,
		fleet.StateRollingBack, fleet.StateRolledBack,
	}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
	last := s.Pending(0)[len(want)-1]
	if last.Ref != ref(2) || last.Reason.Code != fleet.ReasonProbeFailed {
		t.Errorf("the rollback's end tells neither what nor why: %+v", last)
	}
	if got := s.Pending(3); len(got) != 3 || got[0].Seq != 1 {
		t.Errorf("limited: %+v", got)
	}
	s, err = fold(append(recs, Record{Kind: KindAck, Acked: 9}))
	if err != nil || s.Outbox() != 2 || s.Pending(0)[0].Seq != 10 || s.Acked != 9 {
		t.Errorf("acknowledged: %+v, %v", s.Pending(0), err)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	var recs []Record
	hold := about(KindHeld, because(fleet.ReasonBackoff))
	for range MaxOutbox + 5 {
		recs = append(recs, hold)
	}
	s, err := fold(recs)
	if err != nil {
		t.Fatal(err)
	}
	if s.Outbox() != MaxOutbox || s.Dropped != 5 || s.Pending(1)[0].Seq != 6 {
		t.Errorf("%d pending, %d dropped, first %d", s.Outbox(), s.Dropped, s.Pending(1)[0].Seq)
	}

	recs = join(adopt(0))
	const many = 3 * MaxRefused
	for n := uint64(1); n <= many; n++ {
		recs = join(recs, accept(n, 5, 6), failed(n))
	}
	if s, err = fold(recs); err != nil {
		t.Fatal(err)
	}
	p := s.Profile(fleet.System)
	if len(p.Refused) != MaxRefused {
		t.Errorf("%d refusals", len(p.Refused))
	}
	for _, n := range []uint64{5, 6, many} {
		if _, ok := p.IsRefused(ref(n).Digest); !ok {
			t.Errorf("the refusal of %d was forgotten, though it could be desired", n)
		}
	}

	recs = join(adopt(0))
	for n := uint64(1); n <= 2*MaxHistory; n++ {
		recs = join(recs, through(n-1, n))
	}
	if s, err = fold(recs); err != nil {
		t.Fatal(err)
	}
	p = s.Profile(fleet.System)
	if back := p.Confirmable(); len(back) != MaxHistory || back[0].Ref != ref(2*MaxHistory) || p.LastGood.Ref != ref(2*MaxHistory-1) {
		t.Errorf("history %v, last-good %v", back, p.LastGood)
	}

	r := bounded(fleet.Reason{Message: strings.Repeat("é", 5000), Hint: "\xff" + strings.Repeat("h", 5000)})
	if len(r.Message)+len(r.Hint) > fleet.MaxReasonBytes || !strings.HasSuffix(r.Message, "é…") {
		t.Errorf("reason of %d bytes ends in %q", len(r.Message)+len(r.Hint), r.Message[len(r.Message)-8:])
	}
}

func TestCopiesAreDeep(t *testing.T) {
	t.Parallel()
	s, err := fold(join(adopt(0), accept(1, 1), failed(1), accept(2), activating(0, 2), forgiven(9, "doc")))
	if err != nil {
		t.Fatal(err)
	}
	before := s.clone()
	c := s.clone()
	p := c.Profiles[fleet.System]
	p.Activation.Activate.Steps[0].Exec.Argv[0] = "changed"
	p.Activation.Rollback.Steps[1].Link.Path = "changed"
	delete(p.Refused, ref(1).Digest)
	p.History[0].Path = "changed"
	c.outbox[0].Seq = 99
	c.Loosened["x"] = time.Time{}
	c.Profiles["home/x"] = nil
	if diff := cmp.Diff(before, s, cmp.AllowUnexported(State{})); diff != "" {
		t.Error(diff)
	}
}
