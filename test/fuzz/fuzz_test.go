package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/test/measurements"
)

func TestOutput(t *testing.T) {
	const begun = `fuzz: elapsed: 0s, gathering baseline coverage: 0/2 completed
fuzz: elapsed: 0s, gathering baseline coverage: 2/2 completed, now fuzzing with 1 workers
fuzz: elapsed: 3s, execs: 19775 (6589/sec), new interesting: 33 (total: 35)
`
	const end = "FAIL\nexit status 1\nFAIL\texample.org/a\t0.5s\n"
	for name, c := range map[string]struct {
		text string
		want result
	}{
		"good": {
			begun + "fuzz: elapsed: 1m5s, execs: 35767 (7893/sec), new interesting: 41 (total: 43)\nPASS\nok  \texample.org/a\t65.148s\n",
			result{elapsed: 65 * time.Second, execs: 35767, interesting: 41, corpus: 43},
		},
		"an input": {
			begun + "--- FAIL: FuzzA (3.02s)\n    --- FAIL: FuzzA (0.00s)\n        a_test.go:10: context deadline exceeded\n    \n" +
				"    Failing input written to testdata/fuzz/FuzzA/582528ddfad69eb5\n    To re-run:\n    go test -run=FuzzA/582528ddfad69eb5\n" + end,
			result{elapsed: 3 * time.Second, execs: 19775, interesting: 33, corpus: 35, finding: true, input: "testdata/fuzz/FuzzA/582528ddfad69eb5"},
		},
		"a seed": {
			"failure while testing seed corpus entry: FuzzA/seed#0\nfuzz: elapsed: 0s, gathering baseline coverage: 0/2 completed\n--- FAIL: FuzzA (0.02s)\n    --- FAIL: FuzzA (0.00s)\n        a_test.go:10: bad\n" + end,
			result{finding: true},
		},
		"the time was over": {
			begun + "--- FAIL: FuzzA (10.03s)\n    context deadline exceeded\n" + end,
			result{elapsed: 3 * time.Second, execs: 19775, interesting: 33, corpus: 35, outOfTime: true},
		},
		"another failure": {
			begun + "--- FAIL: FuzzA (10.03s)\n    fuzzing process hung\n" + end,
			result{elapsed: 3 * time.Second, execs: 19775, interesting: 33, corpus: 35},
		},
		"no build": {"# example.org/a\n./a_test.go:3:1: syntax error\nFAIL\texample.org/a [build failed]\n", result{}},
	} {
		if got := parseOutput(c.text); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

// TestRowsAreKept: a run replaces the rows of its targets only.
func TestRowsAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "measurements.md")
	a, b, c := target{path: "x", function: "FuzzA"}, target{path: "x", function: "FuzzB"}, target{path: "y", function: "FuzzC"}
	add := func(r row, all ...target) {
		t.Helper()
		if err := keep(file, r, all); err != nil {
			t.Fatal(err)
		}
	}
	ofA := row{target: "x.FuzzA", seconds: 600, execs: 1 << 40, interesting: 3, corpus: 7, revision: "abc", date: "2026-11-28"}
	ofB := row{target: "x.FuzzB", seconds: 10, execs: 12, findings: 1, revision: "abc-dirty", date: "2026-11-29"}
	add(ofB, a, b, c)
	add(ofA, a, b, c)
	text, err := measurements.Read(file, section)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| x.FuzzA | 600 | 1099511627776 | 3 | 7 | 0 | abc | 2026-11-28 |\n| x.FuzzB | 10 | 12 | 0 | 0 | **1** | abc-dirty | 2026-11-29 |\n| y.FuzzC | not yet |",
		"2 of 3 targets, 610 s, 1099511627788 executions, **1 findings**",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	rows, err := parseTable(text)
	if err != nil || len(rows) != 2 || rows["x.FuzzA"] != ofA || rows["x.FuzzB"] != ofB {
		t.Errorf("read back: %+v, %v", rows, err)
	}
	order := []target{a, b, c}
	byAge(order, rows)
	if got := names(order); !slices.Equal(got, []string{"y.FuzzC", "x.FuzzA", "x.FuzzB"}) {
		t.Errorf("the order is %q", got)
	}

	ofB.findings, ofB.revision = 0, "def"
	add(ofB, b, c) // A is gone
	text, err = measurements.Read(file, section)
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := parseTable(text); err != nil || len(rows) != 1 || rows["x.FuzzB"] != ofB || strings.Contains(text, "FuzzA") {
		t.Errorf("now %+v, %v", rows, err)
	}
}

func TestForeignRows(t *testing.T) {
	for _, line := range []string{"| x.FuzzA | 600 |", "| x.FuzzA | ten | 1 | 1 | 1 | 0 | abc | 2026-11-28 |", "| x.FuzzA | 10 | 1 | 1 | 1 | none | abc | 2026-11-28 |"} {
		if rows, err := parseTable(heading + "\n| --- | --- |\n" + line + "\n"); err == nil || !strings.Contains(err.Error(), "x.FuzzA") {
			t.Errorf("%s: got %+v, %v", line, rows, err)
		}
	}
}

// TestRun fuzzes a module of its own: what is found is said and written, and the
// other target runs all the same.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                     "module example.org/fuzzed\n\ngo 1.26\n",
		"a/a.go":                     "package a\n",
		"docs/examples/other/go.mod": "module example.org/other\n\ngo 1.26\n",
		"docs/examples/other/a.go":   "package a\n",
		"a/a_test.go": `package a

import "testing"

func FuzzBad(f *testing.F) {
	f.Fuzz(func(t *testing.T, n int) {
		if n != 0 {
			t.Error("found")
		}
	})
}

type helper struct{}

func (helper) FuzzHelper(*testing.F) {}
`,
		"docs/examples/other/a_test.go": `package a_test

import "testing"

func FuzzGood(f *testing.F) {
	f.Fuzz(func(t *testing.T, n int) {})
}
`,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	o := options{time: time.Second, parallel: 1, write: true, file: filepath.Join(dir, "measurements.md"), out: &out}
	err := fuzz(t.Context(), dir, o)
	if err == nil || err.Error() != "failed: a.FuzzBad" {
		t.Errorf("got %v", err)
	}
	m := regexp.MustCompile(`a FINDING: the input is in (\S+)`).FindStringSubmatch(out.String())
	if m == nil {
		t.Fatalf("no finding in:\n%s", &out)
	}
	if b, err := os.ReadFile(m[1]); err != nil || !strings.HasPrefix(string(b), "go test fuzz v1\n") {
		t.Errorf("the input: %q, %v", b, err)
	}
	text, err := measurements.Read(o.file, section)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := parseTable(text)
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, %v:\n%s", len(rows), err, text)
	}
	if bad := rows["a.FuzzBad"]; bad.findings != 1 {
		t.Errorf("got %+v", bad)
	}
	if good := rows["docs/examples/other.FuzzGood"]; good.findings != 0 || good.execs == 0 || good.seconds < 1 {
		t.Errorf("got %+v", good)
	}
	o.run = regexp.MustCompile("Helper")
	if err := fuzz(t.Context(), dir, o); err == nil || !strings.Contains(err.Error(), "a.FuzzBad") {
		t.Errorf("of no target: %v", err)
	}
}
