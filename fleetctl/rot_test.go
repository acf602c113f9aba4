package fleetctl

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRottenReleases: a release's file that is not what was written is named,
// with what to do, by each command that reads it. None goes on, and once the
// file is put back, or moved away, all do.
func TestRottenReleases(t *testing.T) {
	w := newWorld(t)
	w.hosts()
	w.published("galena")
	w.clock = w.clock.Add(time.Minute)
	id := w.published("galena").Release
	w.record("release-committed", string(id)+": generations 1, machines 1, digests "+string(w.releases()[1].Generations[0].Digest))
	log := filepath.Join(t.TempDir(), "log.jsonl")
	w.ok("audit", "export", log)
	file := filepath.Join(w.dir, "releases", string(id)+".json")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string][]string{
		"publish":      {"publish", "galena"},
		"dry run":      {"publish", "--dry-run", "galena"},
		"releases":     {"releases"},
		"status":       {"status", "galena"},
		"retry":        {"retry", "galena"},
		"sign":         {"sign", string(id), "-y"},
		"carry":        {"carry", "galena", "-f", filepath.Join(t.TempDir(), "carried")},
		"audit verify": {"audit", "verify", log},
	}
	for what, rotten := range map[string][]byte{
		"state":     bytes.Replace(whole, []byte("committed"), []byte("abandoned"), 1),
		"operator":  bytes.Replace(whole, []byte("cameron"), []byte("cameroo"), 1),
		"number":    bytes.Replace(whole, []byte(`"seq": 2`), []byte(`"seq": 3`), 1),
		"one bit":   append(bytes.Clone(whole[:len(whole)/2]), append([]byte{whole[len(whole)/2] ^ 4}, whole[len(whole)/2+1:]...)...),
		"cut":       whole[:len(whole)/2],
		"empty":     nil,
		"all zeros": make([]byte, len(whole)),
	} {
		if bytes.Equal(rotten, whole) {
			t.Fatalf("%s: nothing changed in\n%s", what, whole)
		}
		w.write(string(rotten), "releases", string(id)+".json")
		head, number := w.server.Head, w.desiredNumber("galena")
		for name, args := range commands {
			code, out, errs := w.run(args...)
			if code == exitOK || !strings.Contains(errs, file) || !strings.Contains(errs, "git checkout -- releases/") {
				t.Errorf("%s, %s: exit %d\n%s%s", what, name, code, out, errs)
			}
		}
		if w.server.Head != head || w.desiredNumber("galena") != number || len(w.server.Loosenings) > 0 {
			t.Errorf("%s: something was handed over", what)
		}
	}
	w.write(string(whole), "releases", string(id)+".json")
	w.clock = w.clock.Add(time.Minute)
	if got := w.published("galena").Generations[0].Number; got != "1.3" {
		t.Errorf("number %s after the file was put back", got)
	}
	// Where nobody has the file any more, the coordinator knows its numbers.
	newest := w.releases()[2].ID
	if err := os.Remove(filepath.Join(w.dir, "releases", string(newest)+".json")); err != nil {
		t.Fatal(err)
	}
	if res := w.published("galena"); res.Generations[0].Number != "1.4" || len(res.Alarms) != 1 {
		t.Errorf("number %s after the file was moved away, alarms %q", res.Generations[0].Number, res.Alarms)
	}
}
