package fleetctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/fleetctl/internal/auditlog"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// head is that of the fake coordinator's log.
func (w *world) head() fleet.LogHead {
	n := len(w.server.Records)
	return fleet.LogHead{Seq: uint64(n), Hash: auditlog.HashOf(w.server.Records[n-1])}
}

// rewritten has the log written anew from record n on.
func (w *world) rewritten(n int) {
	w.t.Helper()
	more := len(w.server.Records) - n + 1
	w.server.Records = slices.Clone(w.server.Records[:n-1])
	for i := range more {
		w.record("host-enrolled", fmt.Sprint("another ", i))
	}
}

// alarms runs status, which has to end with an alarm about the log.
func (w *world) alarms(texts ...string) {
	w.t.Helper()
	code, out, errs := w.run("status")
	if code != exitRefused || !strings.Contains(errs, "audit accept") {
		w.t.Errorf("status: exit %d\n%s%s", code, out, errs)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			w.t.Errorf("status does not say %q:\n%s", text, out)
		}
	}
}

// TestLookRemembers: what an operator saw must still be there at the next look.
func TestLookRemembers(t *testing.T) {
	w := newWorld(t)
	w.ok("status") // of a log without records
	for i := range 5 {
		w.record("host-enrolled", fmt.Sprint(i))
	}
	w.ok("status")
	if len(w.server.Looks) != 1 {
		t.Fatalf("%d countersignatures", len(w.server.Looks))
	}
	w.record("host-enrolled", "more")
	w.ok("status")
	if len(w.server.Looks) != 1 {
		t.Error("countersigned twice within the hour")
	}
	w.clock = w.clock.Add(time.Hour)
	w.record("host-enrolled", "more")
	w.ok("status")
	if len(w.server.Looks) != 2 {
		t.Error("not countersigned after an hour")
	}
	whole := w.server.Records
	w.rewritten(3)
	w.alarms("ALARM: the event log, which ends with 7, does not have record 7:", "known to you, 2026-03-01 13:00:00")
	if len(w.server.Looks) != 2 {
		t.Error("countersigned what is not the log that was seen")
	}
	w.server.Records = whole[:4]
	w.alarms("which ends with 4, does not have record 7:")
	w.server.Records = whole
	w.ok("status")

	// What was seen is there, and what follows does not follow on it.
	w.server.Records = slices.Clone(whole)
	w.record("host-enrolled", "one")
	w.record("host-enrolled", "two")
	w.server.Records[7] = []byte(strings.Replace(string(w.server.Records[7]), "one", "other", 1))
	w.alarms("does not have record 7:")

	// Nor does it help to show the end alone.
	w.server.Records = slices.Clone(whole)
	w.record("host-enrolled", "one")
	w.server.LastOnly = true
	w.alarms("does not have record 7:")
	w.server.LastOnly = false
	// What a host said may have any characters but those that end a line.
	w.record("host-enrolled", "delete \x7f, and \u0085")
	w.ok("status")
	if len(w.server.Looks) != 2 {
		t.Error("countersigned twice within the hour")
	}
	w.clock = w.clock.Add(time.Hour)
	w.ok("status")
	if len(w.server.Looks) != 3 {
		t.Error("a head that stays is never countersigned")
	}

	w.server.Records = nil
	w.record("coordinator-started", "anew")
	w.alarms("which ends with 1, does not have record 7:")
	w.fails(exitUsage, "reason", "audit", "accept", "--reason", " ")
	w.fails(exitUsage, "confirmation", "audit", "accept", "--reason", "its disk was lost")
	if out := w.ok("audit", "accept", "--yes", "--reason", "its disk was lost"); !strings.Contains(out, "3 records recorded as lost in trust/lost-heads.json: commit it") {
		t.Errorf("accept:\n%s", out)
	}
	w.ok("status")
	if out := w.ok("audit", "accept", "--yes", "--reason", "again"); !strings.Contains(out, "Nothing is missing") {
		t.Errorf("accept again:\n%s", out)
	}
	w.rewritten(1)
	w.alarms("does not have record 1:")
}

// TestLookOfOthers: what another operator countersigned must be there, and only
// what that operator did.
func TestLookOfOthers(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.record("host-enrolled", fmt.Sprint(i))
	}
	ada, eve := w.person("ada"), w.person("eve")
	w.ok("operator", "add", "ada", "--role", "viewer", "--request", ada.request())
	w.ok("operator", "add", "eve", "--role", "viewer", "--request", eve.request())
	ada.pull(w)
	ada.ok("status")
	if len(w.server.Looks) != 1 {
		t.Fatalf("%d countersignatures", len(w.server.Looks))
	}
	w.rewritten(4)
	w.alarms("does not have record 5:", "known to operator ada")
	// Eve is removed: nothing that she signs counts.
	w.ok("operator", "remove", "eve", "--reason", "left")
	true5 := w.server.Looks[0]
	for name, env := range map[string][]byte{"text": []byte("hello"), "empty": {}, "altered": []byte(strings.Replace(string(true5), `"sig":"`, `"sig":"AAAA`, 1))} {
		w.server.Looks = [][]byte{env}
		if code, out, errs := w.run("status"); code != exitOK {
			t.Errorf("%s: exit %d\n%s%s", name, code, out, errs)
		}
	}
	w.server.Looks = nil
	for range 129 {
		w.server.Looks = append(w.server.Looks, true5)
	}
	w.fails(exitRefused, "129 countersignatures", "status")
}

// TestLookEchoed: what a host was told must be there.
func TestLookEchoed(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.published()
	for i := range 5 {
		w.record("host-enrolled", fmt.Sprint(i))
	}
	by := w.reporter()
	var known fleet.Ref
	for _, g := range w.releases()[0].Generations {
		if g.Machine == "galena" {
			known = fleet.Ref{Number: g.Number, Digest: g.Digest, Release: w.releases()[0].ID}
		}
	}
	r := of(known)
	r.LogHeads = []fleet.KeptHead{{LogHead: w.head(), Time: w.clock}}
	w.reports(r, by)
	heads := filepath.Join(t.TempDir(), "heads")
	out := w.ok("audit", "heads")
	if want := fmt.Sprintf("5:%s  galena\n", w.head().Hash); out != want {
		t.Errorf("audit heads:\n%s\nwant:\n%s", out, want)
	}
	if err := os.WriteFile(heads, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	w.ok("audit", "export", log)
	if out := w.ok("audit", "verify", "--heads", heads, log); !strings.Contains(out, "1 known record found") {
		t.Errorf("verify:\n%s", out)
	}
	w.rewritten(2)
	if err := os.Remove(filepath.Join(w.config, "fleet", "first", "log-head.json")); err != nil {
		t.Fatal(err)
	}
	w.server.Looks = nil // and what was countersigned is dropped
	w.alarms("does not have record 5:", "known to galena")
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	w.ok("audit", "export", log)
	w.fails(exitRefused, "record 5 is not the one that was known", "audit", "verify", "--heads", heads, log)
	if err := os.WriteFile(heads, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(exitUsage, "audit heads", "audit", "verify", "--heads", heads, log)
	code, out, _ := w.run("audit", "heads")
	if code != exitRefused || !strings.Contains(out, "ALARM") {
		t.Errorf("audit heads: exit %d\n%s", code, out)
	}
}

// TestLookUnsigned: what was asked for is shown all the same; an old coordinator
// is no error.
func TestLookUnsigned(t *testing.T) {
	w := newWorld(t)
	w.record("coordinator-started", "anew")
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "Countersign") {
			return status.Error(codes.ResourceExhausted, "the disk is full")
		}
		return nil
	}
	if code, _, errs := w.run("status"); code != exitOK || !strings.Contains(errs, "warning: the event log was not countersigned") {
		t.Errorf("exit %d\n%s", code, errs)
	}
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "LookAtLog") {
			return status.Error(codes.Unimplemented, "unknown method LookAtLog")
		}
		return nil
	}
	w.alarms("does not have record 1:")
	if err := os.Remove(filepath.Join(w.config, "fleet", "first", "log-head.json")); err != nil {
		t.Fatal(err)
	}
	w.ok("status")
	w.server.Before = nil
	path := filepath.Join(w.config, "fleet", "first", "log-head.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "audit heads", "status")
}

// TestLookFailed: a look that fails hides nothing of status, least of all another
// alarm.
func TestLookFailed(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.published()
	w.record("coordinator-started", "anew")
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "LookAtLog") {
			return status.Error(codes.Unavailable, "the store is busy")
		}
		return nil
	}
	code, out, errs := w.run("status")
	if code == exitOK || !strings.Contains(out, "galena") || !strings.Contains(errs, "looking at the event log") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	w.fails(exitUnreachable, "looking at the event log", "audit", "heads")
	w.reports(of(fleet.Ref{Digest: fleet.DigestOf([]byte("stolen"))}), w.reporter())
	code, out, errs = w.run("status", "-o", "json")
	var res statusResult
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if code != exitRefused || len(res.Digests.Alarms) != 1 || !strings.Contains(res.Log.Failed, "looking at the event log") ||
		!strings.Contains(errs, "hint: a stolen key signed them") || strings.Count(errs, "hint: ") != 2 {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if w.remembers() {
		t.Error("remembered what was not looked at")
	}
}

// TestLookSlow: a log that is shown slowly keeps nobody from the rest of status.
func TestLookSlow(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.record("coordinator-started", "anew")
	w.ok("status")
	for i := range 200 {
		w.record("host-enrolled", fmt.Sprint(i))
	}
	w.server.Pause = 50 * time.Millisecond
	code, out, errs := w.run("status", "--timeout", "1s")
	if code != exitUnreachable || !strings.Contains(out, "galena") || !strings.Contains(errs, "looking at the event log took longer than 3s") ||
		!strings.Contains(errs, "hint: ") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if mem, err := auditlog.Recall(filepath.Dir(w.memory())); err != nil || mem.Seen.Seq != 1 {
		t.Errorf("remembers %d: %v", mem.Seen.Seq, err)
	}
}

// TestLookInterrupted: who ends a look early is told of the alarm all the same.
func TestLookInterrupted(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.published()
	w.record("coordinator-started", "anew")
	w.reports(of(fleet.Ref{Digest: fleet.DigestOf([]byte("stolen"))}), w.reporter())
	ctx, interrupt := context.WithCancel(t.Context())
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "LookAtLog") {
			interrupt()
			<-ctx.Done()
		}
		return nil
	}
	if code, out, errs := w.runContext(ctx, "status"); code != exitRefused || !strings.Contains(out, "ALARM") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// TestLookAtMany: of many new records a look reads some, says how many are left,
// and vouches for no more than it read; what follows is read by the next.
func TestLookAtMany(t *testing.T) {
	w := newWorld(t)
	w.record("coordinator-started", "anew")
	w.ok("status")
	for i := range maxWalked + 5 {
		w.record("host-enrolled", fmt.Sprint(i))
	}
	w.clock = w.clock.Add(time.Hour)
	if out := w.ok("status"); !strings.Contains(out, "The newest 5 records of the event log were not read") {
		t.Errorf("status:\n%s", out)
	}
	seen := func() uint64 {
		t.Helper()
		mem, err := auditlog.Recall(filepath.Dir(w.memory()))
		if err != nil || mem.Seen.Seq != mem.SignedSeq {
			t.Errorf("saw %d, signed %d: %v", mem.Seen.Seq, mem.SignedSeq, err)
		}
		return mem.Seen.Seq
	}
	if n := seen(); n != maxWalked+1 {
		t.Errorf("remembers %d", n)
	}
	w.clock = w.clock.Add(time.Hour)
	if out := w.ok("status"); strings.Contains(out, "not read") || seen() != maxWalked+6 {
		t.Errorf("remembers %d:\n%s", seen(), out)
	}
	for i := range maxWalked + 5 {
		w.record("host-enrolled", fmt.Sprint(i))
	}
	w.clock = w.clock.Add(time.Hour)
	if out := w.ok("audit", "heads"); strings.Contains(out, "not read") || seen() != 2*maxWalked+11 {
		t.Errorf("remembers %d:\n%s", seen(), out)
	}
}

// TestHeadOfNothing: the head that is vouched for is a record's.
func TestHeadOfNothing(t *testing.T) {
	w := newWorld(t)
	w.record("coordinator-started", "anew")
	w.server.LastHash = strings.Repeat("0", 64)
	w.alarms("known to the coordinator itself")
	if w.remembers() || len(w.server.Looks) > 0 {
		t.Error("remembered or countersigned a head of nothing")
	}
	w.server.LastHash = ""
	w.ok("status")
}

func (w *world) memory() string { return filepath.Join(w.config, "fleet", "first", "log-head.json") }

func (w *world) remembers() bool {
	_, err := os.Stat(w.memory())
	return err == nil
}

// TestLooksAtOnce: one that takes longer does not set back what another saw.
func TestLooksAtOnce(t *testing.T) {
	w := newWorld(t)
	w.record("coordinator-started", "anew")
	once := true
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "Countersign") && once {
			once = false
			w.record("host-enrolled", "more")
			w.ok("status")
		}
		return nil
	}
	w.ok("status")
	mem, err := auditlog.Recall(filepath.Dir(w.memory()))
	if err != nil || mem.Seen != w.head() {
		t.Errorf("remembers %v, not %v: %v", mem.Seen, w.head(), err)
	}
}

// TestAcceptAtOnce: two that accept keep what both found, once each.
func TestAcceptAtOnce(t *testing.T) {
	w := newWorld(t)
	r, err := repo.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	lost := func(n uint64) repo.LostHead {
		return repo.LostHead{LogHead: fleet.LogHead{Seq: n, Hash: strings.Repeat("a", 64)}, By: "operator/test", Time: w.clock, Reason: "lost"}
	}
	if err := errors.Join(r.AddLostHeads([]repo.LostHead{lost(1), lost(2)}), r.AddLostHeads([]repo.LostHead{lost(2), lost(3)})); err != nil {
		t.Fatal(err)
	}
	if have, err := r.LostHeads(); err != nil || len(have) != 3 {
		t.Errorf("%v, %v", have, err)
	}
	w.record("coordinator-started", "anew")
	w.ok("status")
	w.rewritten(1)
	unlock, err := r.Lock()
	if err != nil {
		t.Fatal(err)
	}
	w.fails(exitConflict, "run this again", "audit", "accept", "--yes", "--reason", "lost")
	unlock()
	// What was recorded is said, whatever fails after it.
	w.server.Before = func(method string) error {
		if list, err := r.LostHeads(); strings.HasSuffix(method, "LookAtLog") && (err != nil || len(list) > 3) {
			return status.Error(codes.Unavailable, "the store is busy")
		}
		return nil
	}
	code, out, errs := w.run("audit", "accept", "--yes", "--reason", "lost")
	if code != exitUnreachable || !strings.Contains(out, "recorded as lost in trust/lost-heads.json: commit it") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}

// FuzzOpenLook: what a coordinator shows of others is refused or whole.
func FuzzOpenLook(f *testing.F) {
	f.Add([]byte(`{"payloadType":"application/vnd.fleet.look.v1+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := release.OpenLook(data, make([]byte, 32)); err == nil && l.Validate() != nil {
			t.Error("opened, and not valid")
		}
	})
}
