package fleetctl

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/auditlog"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// record appends a record to the fake coordinator's log.
func (w *world) record(kind, message string) {
	w.t.Helper()
	prev := strings.Repeat("0", 64)
	if n := len(w.server.Records); n > 0 {
		prev = auditlog.HashOf(w.server.Records[n-1])
	}
	line, err := json.Marshal(auditlog.Record{
		Seq: uint64(len(w.server.Records)) + 1, Time: w.clock.Add(time.Minute), Prev: prev, Actor: "operator/cameron", Kind: kind, Message: message,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.server.Records = append(w.server.Records, line)
}

func TestAuditExportAndVerify(t *testing.T) {
	w := newWorld(t)
	w.published()
	rel := w.releases()[0]
	var digests []fleet.Digest
	for _, g := range rel.Generations {
		digests = append(digests, g.Digest)
	}
	w.record("coordinator-started", "trust root 1")
	w.record("release-committed", string(rel.ID)+": generations 2, machines 2, digests "+string(fleet.DigestOfAll(digests)))
	file := filepath.Join(t.TempDir(), "log.jsonl")
	w.golden("audit-export", strings.ReplaceAll(keyDigits.ReplaceAllString(w.ok("audit", "export", file), "<hash>"), file, "FILE"))
	w.golden("audit-verify", keyDigits.ReplaceAllString(w.ok("audit", "verify", file), "<hash>"))
	w.golden("audit-help", w.ok("audit", "verify", "--help"))
	if out := w.ok("audit", "export"); strings.Count(out, "\n") != 2 {
		t.Errorf("export to standard output:\n%s", out)
	}

	// Interrupted in the middle of a line, and resumed.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":3,"ti`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.record("host-banned", "lost")
	if out := w.ok("audit", "export", file); !strings.Contains(out, "1 record added") {
		t.Errorf("resumed:\n%s", out)
	}
	out := w.ok("audit", "verify", file, "-o", "json")
	var res auditResult
	if err := json.Unmarshal([]byte(out), &res); err != nil || res.First != 1 || res.Last != 3 || len(res.Findings)+len(res.Missing) != 0 {
		t.Errorf("%v: %s", err, out)
	}
	head := "2:" + auditlog.HashOf(w.server.Records[1])
	if out := w.ok("audit", "verify", "--head", head, file); !strings.Contains(out, "1 known record found") {
		t.Errorf("with a head:\n%s", out)
	}
	w.fails(exitUsage, "--from", "audit", "export", "--from", "2", file)

	// A release that the repository lacks, and one that the log lacks.
	w.record("release-committed", "r-stolen: generations 1, machines 1, digests "+string(fleet.DigestOf(nil)))
	w.ok("audit", "export", file)
	code, stdout, errs := w.run("audit", "verify", file)
	if code != exitRefused || !strings.Contains(stdout, "ALARM: record 4") || !strings.Contains(errs, "hint") {
		t.Errorf("exit %d\n%s%s", code, stdout, errs)
	}

	// The log is rewritten: the export, the repeated export, and the head tell.
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w.server.Records = nil
	for range 6 {
		w.record("coordinator-started", "trust root 1, honest")
	}
	w.fails(exitRefused, "record 4 is not the one that record 5 follows", "audit", "export", file)
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, old) {
		t.Errorf("the earlier export was changed: %v", err)
	}
	other := filepath.Join(t.TempDir(), "other.jsonl")
	w.ok("audit", "export", other)
	w.fails(exitRefused, "another record 1", "audit", "verify", file, other)
	w.fails(exitRefused, "record 2 is not the one that was known", "audit", "verify", "--head", head, other)
	if out := w.ok("audit", "verify", other); !strings.Contains(out, "is not in the log") {
		t.Errorf("a log without this repository's release:\n%s", out)
	}
}

func TestAuditRefusals(t *testing.T) {
	w := newWorld(t)
	w.record("coordinator-started", "x")
	w.record("coordinator-started", "y")
	file := filepath.Join(t.TempDir(), "log.jsonl")
	w.ok("audit", "export", file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte(`"x"`), []byte(`"z"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(exitRefused, "record 1 is not the one that record 2 follows", "audit", "verify", file)
	w.fails(exitError, "record 1 is not the one that record 2 follows", "audit", "export", file)
	w.fails(exitUsage, "no such file", "audit", "verify", filepath.Join(t.TempDir(), "gone"))
	w.fails(exitUsage, "is no head", "audit", "verify", "--head", "x", file)
	w.server.Records = [][]byte{[]byte("{}")}
	w.fails(exitRefused, "no record", "audit", "export")
	w.server.Records = [][]byte{[]byte("{\"seq\":1}\n{}")}
	w.fails(exitRefused, "control character", "audit", "export")
	w.server.Records = [][]byte{bytes.Repeat([]byte("x"), auditlog.MaxRecord+1)}
	w.fails(exitRefused, "no record", "audit", "export")
}
