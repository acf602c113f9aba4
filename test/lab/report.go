//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
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
	healthy  time.Duration
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
	p("How: hosts with systemd as their first process, a network of their own and a real Nix (test/lab/booted); on one the coordinator as its unit and fleetctl, on the other the agent as its unit. The systems are real derivations of a flake, whose switch-to-configuration has the actions, order, lock, links and exit codes of NixOS's (test/lab/flake), and breaks as the scenario says. In the group Boot loader the agent's host is an emulated machine with a firmware, systemd-boot and a kernel of its own. What is in the last column is asserted after each. Seconds are of the whole scenario; where the fourth column has a figure, it is from the release that breaks something until the coordinator knows that all is well again.\n")
	group := ""
	for _, row := range r.rows {
		if row.group != group {
			if group != "" {
				p("")
			}
			group = row.group
			p("### %s\n", group)
			p("| scenario | result | s | healthy after, s | shown |")
			p("| --- | --- | ---: | ---: | --- |")
		}
		result := "ok"
		if row.err != nil {
			result = "FAILED"
		}
		healthy := ""
		if row.healthy > 0 {
			healthy = fmt.Sprintf("%.1f", row.healthy.Seconds())
		}
		p("| %s | %s | %.1f | %s | %s |", row.scenario.name, result, row.took.Seconds(), healthy, row.scenario.shows)
	}
	return b.String()
}

// json is the table for programs.
func (r *report) json() ([]byte, error) {
	type result struct {
		Group    string `json:"group"`
		Scenario string `json:"scenario"`
		Shows    string `json:"shows"`
		OK       bool   `json:"ok"`
		Error    string `json:"error,omitempty"`
		// Seconds is how long it took, and Healthy from the fault until all was well again;
		// 0 where that was not measured.
		Seconds float64 `json:"seconds"`
		Healthy float64 `json:"healthy_seconds,omitempty"`
	}
	all := struct {
		Where   string   `json:"where"`
		Seconds float64  `json:"seconds"`
		Results []result `json:"results"`
	}{Where: r.where, Seconds: r.took.Seconds()}
	for _, row := range r.rows {
		next := result{
			Group: row.group, Scenario: row.scenario.name, Shows: row.scenario.shows, OK: row.err == nil,
			Seconds: row.took.Seconds(), Healthy: row.healthy.Seconds(),
		}
		if row.err != nil {
			next.Error = row.err.Error()
		}
		all.Results = append(all.Results, next)
	}
	return json.MarshalIndent(all, "", "  ")
}

func (r *report) writeJSON(file string) error {
	b, err := r.json()
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644) //nolint:gosec // For whoever reads it.
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
