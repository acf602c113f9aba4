package rootedit

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func root() *release.Root {
	r := &release.Root{
		Type: fleet.TypeRoot, Fleet: "first", Version: 4, Epoch: 2, Issued: now.AddDate(-1, 0, 0), Expires: now.AddDate(1, 0, 0),
		Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	for _, role := range release.Roles() {
		id := string(role) + "-1"
		r.Keys[id] = release.Key{Scheme: release.SchemeEd25519, Public: id}
		r.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
	}
	return r
}

var fresh = release.Key{Scheme: release.SchemeEd25519, Public: "fresh"}

func TestNextLeavesTheOldRootAlone(t *testing.T) {
	old := root()
	n := Next(old, now)
	if err := AddKey(n, release.RoleRoot, "root-2", fresh); err != nil {
		t.Fatal(err)
	}
	if err := SetThreshold(n, release.RoleRoot, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := Replace(n, release.RoleRelease, "", "release-2", fresh); err != nil {
		t.Fatal(err)
	}
	RaiseEpoch(n)
	if diff := cmp.Diff(root(), old); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"epoch 2 → 3", "root: key root-2 is added (ed25519)", "root: threshold 1 → 2",
		"release: key release-2 is added (ed25519)", "release: key release-1 is removed", "expires 2027-03-01 → 2028-02-29",
	}
	if diff := cmp.Diff(want, Differences(old, n)); diff != "" {
		t.Error(diff)
	}
	if n.Version != 5 || !n.Issued.Equal(now) {
		t.Errorf("version %d, issued %s", n.Version, n.Issued)
	}
	if _, ok := n.Keys["release-1"]; ok {
		t.Error("a key that no role has stays in the root")
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*release.Root) error
		want   error
	}{
		"a key twice":           {func(r *release.Root) error { return AddKey(r, release.RoleRoot, "root-1", fresh) }, ErrHasKey},
		"the last key":          {func(r *release.Root) error { _, err := RemoveKey(r, release.RoleRoot, "root-1"); return err }, ErrThreshold},
		"an unknown key":        {func(r *release.Root) error { _, err := RemoveKey(r, release.RoleRoot, "x"); return err }, ErrKey},
		"a key of another role": {func(r *release.Root) error { _, err := RemoveKey(r, release.RoleRoot, "release-1"); return err }, ErrKey},
		"no threshold":          {func(r *release.Root) error { return SetThreshold(r, release.RoleRoot, 0) }, ErrThreshold},
		"too high a threshold":  {func(r *release.Root) error { return SetThreshold(r, release.RoleRoot, 2) }, ErrThreshold},
		"an unfilled role":      {func(r *release.Root) error { return SetThreshold(r, release.RoleBuilder, 1) }, ErrThreshold},
		"replaced by itself": {func(r *release.Root) error {
			_, err := Replace(r, release.RoleRoot, "", "root-1", fresh)
			return err
		}, ErrHasKey},
		"one of two": {func(r *release.Root) error {
			if err := AddKey(r, release.RoleRoot, "root-2", fresh); err != nil {
				return err
			}
			_, err := Replace(r, release.RoleRoot, "", "root-3", fresh)
			return err
		}, ErrKey},
	} {
		if err := tc.change(root()); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if _, err := ParseRole("king"); !errors.Is(err, ErrRole) {
		t.Errorf("an unknown role: %v", err)
	}
	for _, role := range release.AllRoles() {
		if got, err := ParseRole(string(role)); err != nil || got != role {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestSharedKeyStays(t *testing.T) {
	r := root()
	if err := AddKey(r, release.RoleBuilder, "release-1", r.Keys["release-1"]); err != nil {
		t.Fatal(err)
	}
	if _, err := Replace(r, release.RoleRelease, "", "release-2", fresh); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Keys["release-1"]; !ok || !slices.Equal(r.Roles[release.RoleBuilder].KeyIDs, []string{"release-1"}) {
		t.Error("a key that another role has is gone")
	}
}
