//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestTheTableHasEachScenarioOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups() {
		if g.setUp == nil || len(g.scenarios) == 0 {
			t.Errorf("group %q has no setup or no scenarios", g.name)
		}
		for _, s := range g.scenarios {
			name := g.name + "/" + s.name
			if seen[name] || s.run == nil || s.shows == "" || strings.ContainsAny(name+s.shows, "|\n") {
				t.Errorf("%q is there twice, or incomplete, or not for a table", name)
			}
			seen[name] = true
		}
	}
}

// TestEveryHostTestIsRun: a test under the build tag lab that is in no row would
// be run by nobody.
func TestEveryHostTestIsRun(t *testing.T) {
	for dir, rows := range map[string][]hostTest{driversDir: driverTests, modulesDir: moduleTests} {
		files, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(data), "//go:build lab\n") {
				continue
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(data), -1) {
				there[m[1]] = true
			}
		}
		for _, d := range rows {
			if !there[d.name] {
				t.Errorf("a row is of %s, which is no test of %s", d.name, dir)
			}
			delete(there, d.name)
		}
		for name := range there {
			t.Errorf("%s of %s is in no row", name, dir)
		}
	}
}

// TestEveryRootIsKilledAt: what make crash leaves to the lab, the lab kills.
func TestEveryRootIsKilledAt(t *testing.T) {
	data, err := os.ReadFile("../crash/sites_test.go")
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, m := range regexp.MustCompile(`"([^"]+)": +needsNix,`).FindAllStringSubmatch(string(data), -1) {
		left[m[1]] = true
		if len(rootPoints[m[1]]) == 0 {
			t.Errorf("%s is left to the lab by make crash, and no row of the lab kills in it", m[1])
		}
	}
	for name := range rootPoints {
		if !left[name] {
			t.Errorf("%s is in a row, and not left to the lab", name)
		}
	}
}

func TestWhatDidNotRunDidNotPass(t *testing.T) {
	if err := passed("=== RUN   TestA\n--- PASS: TestA (0.00s)\nPASS\n", "TestA"); err != nil {
		t.Error(err)
	}
	for _, out := range []string{
		"testing: warning: no tests to run\nPASS\n",
		"--- SKIP: TestA (0.00s)\nPASS\n",
		"--- PASS: TestAll (0.00s)\nPASS\n",
		"    --- PASS: TestA (0.00s)\n",
	} {
		if passed(out, "TestA") == nil {
			t.Errorf("taken for good: %q", out)
		}
	}
}

func TestReport(t *testing.T) {
	r := &report{where: "here", took: time.Minute, rows: []row{
		{group: "A", scenario: scenario{name: "one", shows: "this"}},
		{group: "B", scenario: scenario{name: "two", shows: "that"}, err: errors.New("no"), ends: "its end\n"},
	}}
	if got, want := r.failures(), "\nFAILED B/two: no\nits end\n"; got != want {
		t.Errorf("the failures are %q, want %q", got, want)
	}
	got := r.markdown()
	for _, want := range []string{"2 scenarios, 1 failed", "### A", "| one | ok | 0.0 |  | this |", "### B", "| two | FAILED | 0.0 |  | that |"} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}

func TestFactsAreJudged(t *testing.T) {
	good := facts{Current: "/a", Profile: "/a", BootDefault: "/a", Web: "v1", Active: "active"}
	if err := good.runs(system{"/a", "v1"}); err != nil {
		t.Error(err)
	}
	for _, spoil := range []func(*facts){
		func(f *facts) { f.Current = "/b" }, func(f *facts) { f.Profile = "/b" }, func(f *facts) { f.BootDefault = "" },
		func(f *facts) { f.Web = "v2" }, func(f *facts) { f.Active = "failed" },
	} {
		bad := good
		spoil(&bad)
		if bad.runs(system{"/a", "v1"}) == nil {
			t.Errorf("taken for good: %+v", bad)
		}
	}
	f := facts{Switches: []string{"test /a", "boot /a", "done-test-0 /a", "test /b", "switch /a"}}
	if n := f.activations(system{toplevel: "/a"}); n != 2 {
		t.Errorf("%d activations, want 2", n)
	}
}
