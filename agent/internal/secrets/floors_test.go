package secrets_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func entry(name string, version uint64) fleet.SecretEntry {
	cipher := digest(name + string(rune('0'+version)))
	return fleet.SecretEntry{Name: fleet.SecretName(name), Version: version, Digest: cipher, Size: version, Path: name, Mode: 0o400}
}

// TestRaise: what is below its floor is replaced by the newest that is here, where the old
// generation looks for it, and left out where there is none.
func TestRaise(t *testing.T) {
	old := entry("token", 1)
	old.Path, old.Owner, old.Mode, old.RestartUnits = "app/token", "app", 0o440, []string{"app.service"}
	newest := entry("token", 3)
	newest.Format = fleet.FormatSops
	gone := entry("token", 4)
	newer := []fleet.SecretEntry{entry("token", 1), entry("token", 2), newest, gone, entry("other", 9)}
	here := func(r fleet.BlobRef) bool { return r.Digest != gone.Digest }
	floors := secrets.Floors{"token": 2, "lost": 2, "kept": 1}
	entries := []fleet.SecretEntry{old, entry("lost", 1), entry("kept", 1), entry("free", 1)}
	raised, left := floors.Raise(entries, newer, here)
	want := old
	want.Version, want.Format, want.Digest, want.Size = 3, fleet.FormatSops, newest.Digest, newest.Size
	if d := cmp.Diff([]fleet.SecretEntry{want, entry("kept", 1), entry("free", 1)}, raised); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]fleet.SecretName{"lost"}, left); d != "" {
		t.Error(d)
	}
	if floors.Above(entries) || !floors.Above(raised) || !secrets.Floors(nil).Above(entries) {
		t.Error("what is above its floors is not told")
	}
}

// TestRaiseNeverBelow: whatever is offered, nothing below its floor and nothing that is not
// here is had, and nothing that needs no raising is touched.
func TestRaiseNeverBelow(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "c"})
	drawn := rapid.Custom(func(t *rapid.T) fleet.SecretEntry {
		return entry(names.Draw(t, "name"), rapid.Uint64Range(1, 5).Draw(t, "version"))
	})
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfNDistinct(drawn, 0, 3, func(e fleet.SecretEntry) fleet.SecretName { return e.Name }).Draw(t, "entries")
		newer := rapid.SliceOfN(drawn, 0, 8).Draw(t, "newer")
		floors := secrets.Floors{}
		for _, n := range []string{"a", "b", "c"} {
			floors[fleet.SecretName(n)] = rapid.Uint64Range(1, 5).Draw(t, "floor of "+n)
		}
		lacks := rapid.Uint64Range(0, 6).Draw(t, "not here")
		here := func(r fleet.BlobRef) bool { return r.Size != lacks }
		raised, left := floors.Raise(entries, newer, here)
		if len(raised)+len(left) != len(entries) || !floors.Above(raised) {
			t.Fatalf("raised %+v, left %v", raised, left)
		}
		before := map[fleet.SecretName]fleet.SecretEntry{}
		for _, e := range entries {
			before[e.Name] = e
		}
		for _, e := range raised {
			was := before[e.Name]
			if was.Version >= floors[e.Name] && !cmp.Equal(was, e) || e.Path != was.Path || e.Version != was.Version && e.Version == lacks {
				t.Fatalf("%+v became %+v", was, e)
			}
		}
	})
}
