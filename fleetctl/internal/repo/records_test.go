package repo

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// FuzzRecords: what is in the repository's records comes through version control
// from other operators. What is read is valid, and the same once it was written
// again; anything else is said to be damaged, with the file.
func FuzzRecords(f *testing.F) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	head := fleet.LogHead{Seq: 7, Hash: strings.Repeat("0f", 32)}
	key := strings.Repeat("ab", 32)
	seeds := []struct {
		file  string
		value any
	}{
		{"trust/operators/ann.json", OperatorRecord{Name: "ann", Role: fleet.RoleAdmin, Key: key, Changed: at, By: "bob"}},
		{"hosts/galena.json", HostRecord{Machine: "galena", Keys: "{}", Age: "age1x", Report: "AA==", TokenHash: key, Joined: at}},
		{"trust/lost-heads.json", lostHeads{[]LostHead{{LogHead: head, By: "ann", Time: at, Reason: "its disk was lost"}}}},
		{"trust/bans.json", banFile{[]Ban{{Machine: "galena", Reason: "stolen", Operator: "ann", Time: at}}}},
		{"secrets/galena/index.json", SecretIndex{"token": {Version: 2, Digest: fleet.DigestOf(nil), Size: 1, Recipients: []string{"age1x"}}}},
	}
	r := At(f.TempDir())
	for i, s := range seeds {
		text, err := json.Marshal(s.value)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), text) //nolint:gosec // A few.
		if err := os.MkdirAll(filepath.Dir(r.Path(s.file)), 0o700); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(uint8(0), []byte(`{"name":"ann","role":"admin","removed":true,"changed":"2026-05-01T12:00:00Z"}`))
	f.Add(uint8(0), []byte(`{"name":"../bob","role":"admin"}`))
	f.Add(uint8(2), []byte(`{"heads":[{"seq":0,"hash":""}]}`))
	f.Add(uint8(3), []byte(`{"bans":[{"machine":"a/b"}]}`))
	f.Add(uint8(1), []byte(`null`))
	// What is read, all of it, and what is invalid about it.
	read := func(which int) (v any, invalid, err error) {
		switch which {
		case 0:
			o, err := r.Operator("ann")
			if o != nil {
				invalid = o.check("ann")
			}
			return o, invalid, err
		case 1:
			h, err := r.Host("galena")
			if h != nil && h.Machine != "galena" {
				invalid = errors.New("it is another machine's")
			}
			return h, invalid, err
		case 2:
			l, err := r.LostHeads()
			for _, h := range l {
				invalid = errors.Join(invalid, h.Validate())
			}
			return lostHeads{l}, invalid, err
		case 3:
			b, err := r.Bans()
			for _, b := range b {
				_, perr := fleet.ParseMachineName(string(b.Machine))
				invalid = errors.Join(invalid, perr)
			}
			return banFile{b}, invalid, err
		}
		idx, err := r.Secrets("galena")
		return idx, nil, err
	}
	f.Fuzz(func(t *testing.T, n uint8, data []byte) {
		which := int(n) % len(seeds)
		file := r.Path(seeds[which].file)
		put := func(data []byte) {
			_ = os.Remove(file)
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put(data)
		v, invalid, err := read(which)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), filepath.Base(file)) {
				t.Errorf("refused as %v", err)
			}
			return
		}
		if invalid != nil {
			t.Errorf("read %+v: %v", v, invalid)
		}
		text, err := json.Marshal(v)
		if err != nil {
			return // A year beyond 9999.
		}
		put(text)
		again, _, err := read(which)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, again, cmpopts.EquateEmpty(), cmp.AllowUnexported(lostHeads{}, banFile{})); diff != "" {
			t.Errorf("(-read +read again):\n%s", diff)
		}
	})
}

func TestRecordsThatAreNone(t *testing.T) {
	r := At(t.TempDir())
	for file, text := range map[string]string{
		"trust/bans.json":       `{"bans":[{"machine":"galena"},{"machine":"../x"}]}`,
		"trust/lost-heads.json": `{"heads":[{"seq":3,"hash":"` + strings.Repeat("0f", 32) + `"},{"seq":4,"hash":"0f"}]}`,
	} {
		if err := r.Write([]byte(text), strings.Split(file, "/")...); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := r.Bans(); !errors.Is(err, ErrCorrupt) || b != nil {
		t.Errorf("bans: %v, %v", b, err)
	}
	if l, err := r.LostHeads(); !errors.Is(err, ErrCorrupt) || l != nil {
		t.Errorf("lost heads: %v, %v", l, err)
	}
	many := `{"heads":[` + strings.Repeat("{},", maxLostHeads) + `{}]}`
	if err := r.Write([]byte(many), "trust", "lost-heads.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.LostHeads(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "at most 200000") {
		t.Errorf("too many: %v", err)
	}
}
