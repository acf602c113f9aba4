package journal

import (
	"errors"
	"testing"

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
