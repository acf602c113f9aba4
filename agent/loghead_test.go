package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func headOf(seq uint64) fleet.LogHead {
	return fleet.LogHead{Seq: seq, Hash: strings.Repeat("0a", 31) + "ff"}
}

// TestLogHeads: a host keeps heads a day apart, over restarts, and a coordinator
// that floods it can't have it forget.
func TestLogHeads(t *testing.T) {
	dir := t.TempDir()
	l, err := openLogHeads(dir)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seq := uint64(0)
	day := func(n int) {
		for i := range 100 {
			seq++
			if _, err := l.note("lab", headOf(seq), start.AddDate(0, 0, n).Add(time.Duration(i)*time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
	}
	day(0)
	if _, err := l.note("lab", fleet.LogHead{}, start.AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	day(1)
	if l, err = openLogHeads(dir); err != nil {
		t.Fatal(err)
	}
	if got := l.of("lab"); len(got) != 2 || got[0].Seq != 1 || got[1].Seq != 101 {
		t.Fatalf("kept: %v", got)
	}
	for n := 2; n < 20; n++ {
		day(n)
	}
	if got := l.of("lab"); len(got) != fleet.MaxKeptHeads || got[0].Seq != 1201 || got[7].Seq != 1901 {
		t.Errorf("after 20 days: %v", got)
	}
	if _, err := l.note("other", headOf(7), start); err != nil || len(l.of("lab")) != 0 || len(l.of("other")) != 1 {
		t.Errorf("of another fleet: %v, %v", l.of("other"), err)
	}
}

// TestLogHeadsDamaged: what can't be read is said, and begun anew.
func TestLogHeadsDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"no json": "{", "a list": `[]`,
		"no hash": `{"fleet":"lab","heads":[{"seq":1,"hash":"ab","time":"2026-03-01T12:00:00Z"}]}`, "large": strings.Repeat(" ", maxLogHeadsBytes+1),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, logHeadsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := openLogHeads(dir)
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		if _, err := l.note("lab", headOf(3), time.Now()); err != nil || len(l.of("lab")) != 1 {
			t.Errorf("%s: begun anew: %v, %v", name, l.of("lab"), err)
		}
	}
}

func FuzzLogHeads(f *testing.F) {
	f.Add([]byte(`{"fleet":"lab","heads":[{"seq":1,"hash":"` + headOf(1).Hash + `","time":"2026-03-01T12:00:00Z"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		kept, err := decodeLogHeads(data)
		if err == nil && len(kept.Heads) > fleet.MaxKeptHeads {
			t.Errorf("%d heads", len(kept.Heads))
		}
	})
}
