//go:build linux

package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// closure ends the names of functions within functions.
var closure = regexp.MustCompile(`(\.func[0-9.]+|\[\.\.\.\]|-range[0-9]+)+$`)

// TestEveryPointIsMet plays the stages without a crash: each point, and each call
// that writes a file, must be met by one of them, so that make crash tries it.
func TestEveryPointIsMet(t *testing.T) {
	dir := t.TempDir()
	programs := filepath.Join(dir, "bin")
	if err := build(t.Context(), "../..", programs); err != nil {
		t.Fatal(err)
	}
	w, err := newWorld(programs, filepath.Join(dir, "world"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	all, err := w.record(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if missing := tableOf(all, nil).neverHit(); len(missing) > 0 {
		t.Errorf("no stage meets %s: make one meet it, or take the point away", strings.Join(missing, ", "))
	}
	met := map[string]bool{}
	for r := range all {
		met[closure.ReplaceAllString(r.what, "")] = true
	}
	for _, name := range callers(t) {
		_, excused := unmet[name]
		if !met[name] && !excused {
			t.Errorf("no stage meets the files or links that %s writes: make one do so, or say in unmet why none does", name)
		}
	}
	// One kill by each kind of program, so that what make crash does is tried too.
	for _, r := range []row{
		{hit{"agent", "journal.appended", "activating"}, 2, 1},
		{hit{"coordinator", "event.written", "release-committed"}, 3, 1},
		{hit{"fleetctl", "publish.committed", "-"}, 3, 1},
		{hit{"runner", "runner.program", "-"}, 3, 1},
	} {
		if !all[r] {
			t.Errorf("%s is not met", r)
			continue
		}
		if o := w.try(t.Context(), r); o.once != nil || violation(o.twice) {
			t.Errorf("%s: once: %v, twice: %v", r, o.once, o.twice)
		}
	}
}

// lived makes a world that went through a stage, with a log of activations.
func lived(t *testing.T, versions []string, log ...string) *world {
	t.Helper()
	w := &world{top: t.TempDir(), dir: t.TempDir()}
	state := w.path("host", "bundles", "state", "system")
	must(t, os.MkdirAll(state, 0o700))
	must(t, os.WriteFile(w.activationsLog(), []byte(strings.Join(log, "\n")+"\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(state, "version"), []byte("v2\n"), 0o600))
	for _, v := range versions {
		must(t, os.MkdirAll(w.path("host", "bundles", "store", v), 0o700))
		must(t, os.WriteFile(w.path("host", "bundles", "store", v, "version"), []byte(v+"\n"), 0o600))
	}
	return w
}

// TestChecksSeeTheHost: so do those of what the host has.
func TestChecksSeeTheHost(t *testing.T) {
	digest := fleet.DigestOf([]byte("v1"))
	w := lived(t, []string{"v2", digest.Hex()}, "v2 v1 10")
	must(t, os.MkdirAll(w.path("host", "bundles", "profiles", "system"), 0o700))
	must(t, os.WriteFile(w.path("host", "bundles", "profiles", "system", "version"), []byte("v2\n"), 0o600))
	payload := fmt.Sprintf(`{"source": {"driver": "bundle", "bundle": {"digest": %q, "size": 1}}}`, digest)
	envelope := fmt.Sprintf(`{"payload": %q}`, base64.StdEncoding.EncodeToString([]byte(payload)))
	release := fmt.Sprintf(`{"generations": [{"number": {"epoch": 1, "seq": 1}, "generation": %q}]}`, base64.StdEncoding.EncodeToString([]byte(envelope)))
	must(t, os.MkdirAll(w.path("fleet", "releases"), 0o700))
	must(t, os.WriteFile(w.path("fleet", "releases", "r1.json"), []byte(release), 0o600))
	w.good = "1.1"
	if err := w.lastGood(); err != nil {
		t.Error(err)
	}
	w.good = "1.7"
	if w.lastGood() == nil {
		t.Error("last-good is of no release, and nobody sees it")
	}
	w.good = "1.1"
	must(t, os.RemoveAll(w.path("host", "bundles", "store", digest.Hex())))
	if w.lastGood() == nil {
		t.Error("last-good is gone, and nobody sees it")
	}

	must(t, os.MkdirAll(w.path("coordinator"), 0o700))
	db, err := bbolt.Open(w.path("coordinator", "fleet.db"), 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bbolt.Tx) error {
		data, err := tx.CreateBucket([]byte("data"))
		if err == nil {
			err = data.Put([]byte("host/"+machine), []byte(`0123456789abcdef{"acked": 7, "other": 1}`))
		}
		return err
	}))
	must(t, db.Close())
	for told, good := range map[int]bool{6: true, 7: true, 8: false} {
		text := fmt.Sprintf("0 [{\"acked\":1}]\n0 [{\"acked\":%d}]\n0 [{\"acked\":2}]\n", told)
		must(t, os.WriteFile(w.path("host", "journal"), []byte(text), 0o600))
		if err := w.transitions(); (err == nil) != good {
			t.Errorf("%d were acknowledged to the host, 7 are there: %v", told, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestChecksSee: each check finds what it is there for.
func TestChecksSee(t *testing.T) {
	forth := stage{activates: []move{{"v2", "v1"}}}
	one := []event{{Kind: "transition", Message: "system: activating generation 1.2 of r"}}
	two := append(slices.Clone(one), one...)
	both := []string{"v1", "v2"}
	for name, c := range map[string]struct {
		w      *world
		s      stage
		events []event
		agent  bool
		want   string
	}{
		"good":                {w: lived(t, both, "v2 v1 10"), s: forth, events: one},
		"there, back, there":  {w: lived(t, both, "v2 v1 10", "v1 v2 11", "v2 v1 12"), s: forth, events: two},
		"twice by a runner":   {w: lived(t, both, "v2 v1 10", "v2 v1 10"), s: forth, events: two, want: "twice"},
		"twice, orphaned":     {w: lived(t, both, "v2 v1 1", "v2 v1 1"), s: forth, events: two},
		"orphaned too often":  {w: lived(t, both, "v2 v1 1", "v2 v1 1"), s: forth, events: one, want: "on record"},
		"more than on record": {w: lived(t, both, "v2 v1 10", "v2 v1 11"), s: forth, events: one, want: "on record"},
		"an agent died only":  {w: lived(t, both, "v2 v1 10", "v2 v1 11"), s: forth, events: two, agent: true, want: "2 activations ran"},
		"nobody wanted":       {w: lived(t, both, "bad v1 10"), s: forth, events: one, want: "nobody wanted"},
		"not at all":          {w: lived(t, both), s: forth, events: one, want: "nothing was activated"},
		"a rotation only":     {w: lived(t, both, "v2 v1 10"), s: stage{}, events: one, want: "nobody wanted"},
	} {
		if c.agent {
			c.w.trigger = "agent/*#1=kill"
		}
		if err := c.w.once(c.s, c.events); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}

	w := lived(t, []string{"v2"}, "v2 v1 10")
	w.acked = acked{Release: "r2", Number: "1.2", Good: "1.1", Tokens: 1}
	token, committed := event{Kind: "token-created"}, event{Kind: "release-committed", Message: "release r2"}
	for name, events := range map[string][]event{
		"the release": {token}, "the token": {committed}, "an alarm": {token, committed, {Kind: "number-reused"}},
	} {
		if w.acknowledged(events) == nil {
			t.Errorf("%s: nobody sees it", name)
		}
	}
	if err := w.acknowledged([]event{token, committed}); err != nil {
		t.Error(err)
	}
	w.eventsBefore, w.acked.Told = 1, []string{"host-banned"}
	banned := event{Kind: "host-banned"}
	for name, events := range map[string][]event{
		"only of before": {banned}, "fewer": nil, "lost": {token, banned, {Kind: "transitions-lost"}}, "older": {token, banned, {Kind: "coordinator-restored-older"}},
	} {
		if w.told(stage{}, events) == nil {
			t.Errorf("%s: nobody sees it", name)
		}
	}
	if err := errors.Join(w.told(stage{}, []event{token, banned}), w.told(stage{loses: true}, nil)); err != nil {
		t.Error(err)
	}

	must(t, os.MkdirAll(w.path("fleet", "releases"), 0o700))
	for name, digest := range map[string]string{"r1": "a", "r2": "b"} {
		text := `{"generations": [{"machine": "box1", "profile": "system", "number": "1.2", "digest": "` + digest + `"}]}`
		must(t, os.WriteFile(w.path("fleet", "releases", name+".json"), []byte(text), 0o600))
	}
	if w.numbers() == nil {
		t.Error("a number is used twice, and nobody sees it")
	}
}

func TestTable(t *testing.T) {
	h := hit{"agent", crashpoint.Points()[1].Name, "x.Y"}
	all := map[row]bool{{h, 1, 1}: true, {h, 1, 2}: true, {h, 2, 1}: true}
	rows := sorted(all, false, func(row) bool { return true })
	if rows[0] != (row{h, 1, 1}) || len(rows) != 3 || len(sorted(all, true, func(row) bool { return true })) != 1 {
		t.Errorf("sorted: %v", rows)
	}
	var outcomes []outcome
	for r := range maps.Keys(all) {
		outcomes = append(outcomes, outcome{row: r, twice: errNoMore})
	}
	outcomes[0].once, outcomes[1].once = errNotMet, errGaveUp
	tab := tableOf(all, outcomes)
	if got := tab.lines[0]; got.hits != 3 || got.once != 2 || got.twice != 0 || got.notMet != 1 || got.bad != 1 || len(got.places) != 1 {
		t.Errorf("line: %+v", got)
	}
	if len(tab.neverHit()) != len(crashpoint.Points())-2-len(elsewhere) || tab.violations != 1 || len(tab.messages) != 1 {
		t.Errorf("table: %+v", tab)
	}
	want := "| " + h.point + " | any | 1 | 3 | 2 | 0 | 1 | 1 |"
	if text := tab.markdown("Here."); !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}
