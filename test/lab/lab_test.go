//go:build linux

package main

import (
	"errors"
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

func TestReport(t *testing.T) {
	r := &report{where: "here", took: time.Minute, rows: []row{
		{group: "A", scenario: scenario{name: "one", shows: "this"}},
		{group: "B", scenario: scenario{name: "two", shows: "that"}, err: errors.New("no")},
	}}
	got := r.markdown()
	for _, want := range []string{"2 scenarios, 1 failed", "### A", "| one | ok | 0.0 | this |", "### B", "| two | FAILED | 0.0 | that |"} {
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
