//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// report is what the scenarios showed.
type report struct {
	where string
	took  time.Duration
	rows  []row
}

type row struct {
	group    string
	scenario scenario
	err      error
	took     time.Duration
	ends     string // of the hosts' logs, where it failed
}

func (r *report) failed() int {
	n := 0
	for _, row := range r.rows {
		if row.err != nil {
			n++
		}
	}
	return n
}

func (r *report) markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## On booted hosts\n")
	p("%s. It took %s; %d scenarios, %d failed.\n", r.where, r.took.Round(time.Second), len(r.rows), r.failed())
	p("How: hosts with systemd as their first process, a network of their own and a real Nix (test/lab/booted); on one the coordinator as its unit and fleetctl, on the other the agent as its unit. The systems are real derivations of a flake, whose switch-to-configuration has the actions, order, lock, links and exit codes of NixOS's (test/lab/flake), and breaks as the scenario says. What is in the last column is asserted after each.\n")
	group := ""
	for _, row := range r.rows {
		if row.group != group {
			if group != "" {
				p("")
			}
			group = row.group
			p("### %s\n", group)
			p("| scenario | result | s | shown |")
			p("| --- | --- | ---: | --- |")
		}
		result := "ok"
		if row.err != nil {
			result = "FAILED"
		}
		p("| %s | %s | %.1f | %s |", row.scenario.name, result, row.took.Seconds(), row.scenario.shows)
	}
	return b.String()
}

// failures are what failed, why, and what the hosts said last, for who has only the
// end of what was printed.
func (r *report) failures() string {
	var b strings.Builder
	for _, row := range r.rows {
		if row.err != nil {
			fmt.Fprintf(&b, "\nFAILED %s/%s: %v\n%s", row.group, row.scenario.name, row.err, row.ends)
		}
	}
	return b.String()
}
