package journal

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestTrustReset: numbers are counted anew, facts of the host stay, and the
// new root may have a lower version, once.
func TestTrustReset(t *testing.T) {
	j := open(t, t.TempDir())
	appendAll(t, j, Record{Kind: KindRoot, Root: &Root{Version: 3, Digest: fleet.DigestOf([]byte("old"))}}, adopt(0), accept(7))
	reset := Record{Kind: KindTrustReset, Root: &Root{Version: 1, Digest: fleet.DigestOf([]byte("new"))}, Actor: "root"}
	if err := j.Append(Record{Kind: KindTrustReset}); !errors.Is(err, ErrRecord) {
		t.Errorf("without a root: got %v", err)
	}
	appendAll(t, j, reset)
	st := j.State()
	p := st.Profile(fleet.System)
	if !p.Highest.IsZero() || !p.Adopted || st.Reset == nil || st.Root.Version != 3 {
		t.Errorf("after the intent: %+v, %+v", p, st.Root)
	}
	appendAll(t, j, Record{Kind: KindRoot, Root: reset.Root})
	if st = j.State(); st.Reset != nil || st.Root != *reset.Root {
		t.Errorf("after the root: %+v", st)
	}
	if err := j.Append(Record{Kind: KindRoot, Root: &Root{Version: 0, Digest: reset.Root.Digest}}); !errors.Is(err, ErrRecord) {
		t.Errorf("a lower root later: got %v", err)
	}
	appendAll(t, j, accept(1))
}

// TestFloorsOnRecord: floors only rise, outlive a restart, and end with the trust in whoever
// signed them.
func TestFloorsOnRecord(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	stage := func(n uint64, before int64, floors map[fleet.SecretName]uint64) Record {
		r := staged(n)
		r.Floors = floors
		if before > 0 {
			r.RevokedBefore = time.Unix(before, 0).UTC()
		}
		return r
	}
	many := map[fleet.SecretName]uint64{}
	for i := range 2 * fleet.MaxFloors {
		many[fleet.SecretName(fmt.Sprintf("s%d", i))] = 1
	}
	appendAll(t, j, adopt(0), accept(1), stage(1, 5, map[fleet.SecretName]uint64{"a": 2, "b": 7}),
		accept(2), stage(2, 3, map[fleet.SecretName]uint64{"a": 3, "b": 6}), accept(3), stage(3, 0, nil))
	check := func(when string) {
		t.Helper()
		st := j.State()
		p := st.Profile(fleet.System)
		if p.Floors["a"] != 3 || p.Floors["b"] != 7 || !p.RevokedBefore.Equal(time.Unix(5, 0)) {
			t.Errorf("%s: %v, %s", when, p.Floors, p.RevokedBefore)
		}
	}
	check("staged")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, dir)
	check("opened again")
	appendAll(t, j, accept(4), stage(4, 0, many))
	check("with more than fit")
	st := j.State()
	if n := len(st.Profile(fleet.System).Floors); n != fleet.MaxFloors {
		t.Errorf("%d floors", n)
	}
	appendAll(t, j, Record{Kind: KindTrustReset, Root: &Root{Version: 1, Digest: fleet.DigestOf([]byte("new"))}, Actor: "root"})
	st = j.State()
	if p := st.Profile(fleet.System); p.Floors != nil || !p.RevokedBefore.IsZero() {
		t.Errorf("after the reset: %v, %s", p.Floors, p.RevokedBefore)
	}
}
