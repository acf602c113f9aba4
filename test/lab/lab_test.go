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
