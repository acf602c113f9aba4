package repo

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, ErrNoRepository) {
		t.Errorf("no fleet.yaml: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, FleetFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	r, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := filepath.EvalSymlinks(r.Dir()); err != nil || filepath.Base(got) != filepath.Base(dir) {
		t.Errorf("found %s, %v", got, err)
	}
}

func TestReleases(t *testing.T) {
	r := At(t.TempDir())
	if list, err := r.Releases(); list != nil || err != nil {
		t.Errorf("%v, %v", list, err)
	}
	first := signedRelease(t, "r9", 1)
	later := &Release{ID: "r2", Fleet: "first", State: ReleasePrepared, Created: first.Created.Add(time.Hour), Operator: "cameron"}
	for _, rel := range []*Release{later, first} {
		if err := r.WriteRelease(rel); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.Releases()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*Release{first, later}, got); diff != "" {
		t.Error(diff)
	}
	for name, text := range map[string]string{
		"cut":           `{"id": "r3"`,
		"other name":    `{"id": "r4", "state": "committed"}`,
		"unknown state": `{"id": "r3", "state": "lost"}`,
		"twice":         `{"id": "r3", "id": "r3", "state": "committed"}`,
		"machine":       `{"id": "r3", "state": "committed", "generations": [{"machine": "../x"}]}`,
		"digest":        `{"id": "r3", "state": "committed", "generations": [{"machine": "x", "digest": "md5:1"}]}`,
	} {
		if err := r.Write([]byte(text), "releases", "r3.json"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Releases(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte(`{"id": "r3", "state": "committed", "generations": [{"machine": "x", "digest": "sha256:00"}]}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`null`))
	good, err := json.Marshal(signedRelease(f, "r3", 1))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseRelease(good, "r3"); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		rel, err := parseRelease(data, "r3")
		if err != nil {
			return
		}
		if rel.ID != "r3" {
			t.Errorf("read %+v", rel)
		}
		text, err := json.Marshal(rel)
		if err != nil {
			return // A year beyond 9999.
		}
		if again, err := parseRelease(text, "r3"); err != nil || !cmp.Equal(rel, again, cmpopts.EquateEmpty()) {
			t.Errorf("%q becomes %q: %v", data, text, err)
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte(`{"payload": "e30="}`))
	f.Add([]byte(`{"payload": 1}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = Payload(data)
	})
}

func TestSecrets(t *testing.T) {
	r := At(t.TempDir())
	data := []byte("ciphertext")
	meta := SecretMeta{Version: 3, Digest: fleet.DigestOf(data), Size: 10, Recipients: []string{"age1b", "age1a"}}
	if err := r.WriteSecret("galena", "token", data, meta); err != nil {
		t.Fatal(err)
	}
	idx, err := r.Secrets("galena")
	if err != nil || idx["token"].Version != 3 || idx["token"].Recipients[0] != "age1a" {
		t.Errorf("%v, %v", idx, err)
	}
	if got, err := r.ReadSecret("galena", "token", idx["token"]); err != nil || string(got) != "ciphertext" {
		t.Errorf("%q, %v", got, err)
	}
	// A crash between ciphertext and index: the ciphertext counts as unpublished.
	if err := r.Write([]byte("newer"), "secrets", "galena", "token.age"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.ReadSecret("galena", "token", idx["token"]); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := r.ReadSecret("galena", "none", meta); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHostsAndBans(t *testing.T) {
	r := At(t.TempDir())
	if h, err := r.Host("galena"); h != nil || err != nil {
		t.Errorf("%v, %v", h, err)
	}
	rec := &HostRecord{Machine: "galena", Keys: "{}", Age: "age1x", TokenHash: "00", Joined: time.Unix(1, 0).UTC()}
	if err := r.WriteHost(rec); err != nil {
		t.Fatal(err)
	}
	if h, err := r.Host("galena"); err != nil || cmp.Diff(rec, h) != "" {
		t.Errorf("%v, %v", h, err)
	}
	if err := os.Rename(r.Path("hosts", "galena.json"), r.Path("hosts", "pyrite.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Host("pyrite"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another machine's record: %v", err)
	}
	for _, b := range []Ban{{Machine: "pyrite", Reason: "b"}, {Machine: "galena", Reason: "a"}, {Machine: "pyrite", Reason: "c"}} {
		if err := r.SetBan(b, false); err != nil {
			t.Fatal(err)
		}
	}
	if bans, err := r.Bans(); err != nil || len(bans) != 2 || bans[1].Reason != "c" {
		t.Errorf("%v, %v", bans, err)
	}
	if err := r.SetBan(Ban{Machine: "pyrite"}, true); err != nil {
		t.Fatal(err)
	}
	if bans, err := r.Bans(); err != nil || len(bans) != 1 {
		t.Errorf("%v, %v", bans, err)
	}
}

func TestReadIsBounded(t *testing.T) {
	r := At(t.TempDir())
	if err := r.Write(make([]byte, 101), "file"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(100, "file"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("%v", err)
	}
	if data, err := r.Read(101, "file"); err != nil || len(data) != 101 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

func TestTrustFails(t *testing.T) {
	r := At(t.TempDir())
	if _, _, err := r.Trust(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no root: %v", err)
	}
	if err := r.WriteRoot(1, []byte(`{"payload": "e30=", "payloadType": "x", "signatures": []}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Trust(); err == nil {
		t.Error("an unsigned root was taken")
	}
	if _, err := r.CA(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no CA: %v", err)
	}
	if err := r.Write([]byte("no pem"), "trust", "ca.crt"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CA(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("bad CA: %v", err)
	}
}
