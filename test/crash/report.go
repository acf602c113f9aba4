//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/crashpoint"
)

func (r row) String() string {
	return stages()[r.stage].name + ": " + strings.TrimSuffix(r.trigger(r.n), "=kill")
}

// violation says whether an outcome is one: not that a kill did not happen.
func violation(err error) bool {
	return err != nil && !errors.Is(err, errNotMet) && !errors.Is(err, errNoMore)
}

// line is a point's row of the table.
type line struct {
	info                           crashpoint.Info
	places                         map[hit]bool
	hits, once, twice, notMet, bad int
}

type table struct {
	lines              []*line
	rows, once, twice  int
	notMet, violations int
	messages           []string
	stages             int
	// first says that only the first hit at each place was tried.
	first bool
	// power says that the power was cut instead of programs killed.
	power bool
}

// tableOf counts. Rows that were not picked count as hits only.
func tableOf(all map[row]bool, outcomes []outcome) *table {
	t := &table{stages: len(stages())}
	lines := map[string]*line{}
	for _, info := range crashpoint.Points()[1:] {
		l := &line{info: info, places: map[hit]bool{}}
		lines[info.Name] = l
		t.lines = append(t.lines, l)
	}
	for r := range all {
		l := lines[r.point]
		l.hits++
		l.places[r.hit] = true
		t.rows++
	}
	for _, o := range outcomes {
		l := lines[o.point]
		count := func(err error, killed *int) {
			switch {
			case errors.Is(err, errNotMet):
				l.notMet++
			case errors.Is(err, errNoMore):
			case err != nil:
				*killed++
				l.bad++
				t.messages = append(t.messages, fmt.Sprintf("%s: %v", o.row, err))
			default:
				*killed++
			}
		}
		count(o.once, &l.once)
		if o.once == nil {
			count(o.twice, &l.twice)
		}
	}
	for _, l := range t.lines {
		t.once, t.twice, t.notMet, t.violations = t.once+l.once, t.twice+l.twice, t.notMet+l.notMet, t.violations+l.bad
	}
	slices.Sort(t.messages)
	return t
}

// elsewhere are points that no stage meets, and what kills there instead.
var elsewhere = map[string]string{"secrets.in-memory": mountsMemory, "secrets.mounted": mountsMemory}

const mountsMemory = "mounts a file system: TestRestoreKilled of agent/internal/secrets kills a restoration at each point"

// neverHit are the points that no stage meets, and should.
func (t *table) neverHit() (names []string) {
	for _, l := range t.lines {
		if l.hits == 0 && elsewhere[l.info.Name] == "" {
			names = append(names, l.info.Name)
		}
	}
	return names
}

func (t *table) summary() string {
	var b strings.Builder
	for _, m := range t.messages {
		b.WriteString("VIOLATION: " + m + "\n")
	}
	fmt.Fprintf(&b, "%d points, met %d times in %d stages; killed once %d times, twice in a row %d times; %d not met again; %d violations\n",
		len(t.lines), t.rows, t.stages, t.once, t.twice, t.notMet, t.violations)
	return b.String()
}

func (t *table) markdown(where string) string {
	var b strings.Builder
	if t.power {
		b.WriteString("## Power lost at every crash point\n\n")
	} else {
		b.WriteString("## Every crash point\n\n")
	}
	times := "at every time that they meet it in"
	if t.first {
		times = "at each of its places, the first time that they meet it there in"
	}
	what, unit := "Programs killed with SIGKILL at every crash point of `pkg/crashpoint`", "kills"
	if t.power {
		what, unit = "A fleet whose coordinator, host and operator share a disk (ext4 on a loop device) loses its power (EXT4_IOC_SHUTDOWN with NOLOGFLUSH, all programs frozen and killed, "+
			"the disk mounted anew, another boot_id) when a program is at a crash point of `pkg/crashpoint`", "power cuts"
	}
	fmt.Fprintf(&b, "%s, %s the %d stages of a fleet's life, first initialisation included: "+
		"once, and again at the same point (or the first one met) after the restart. %s\n\n", what, times, t.stages, where)
	fmt.Fprintf(&b, "In all: %d %s once, %d twice in a row, **%d violations**; the points were met %d times. Places are call sites or kinds of records; "+
		"hits that depend on timing and did not come again are not met.\n\n", t.once, unit, t.twice, t.violations, t.rows)
	b.WriteString("| point | side | places | hits | once | twice | not met | violations |\n|---|---|---|---|---|---|---|---|\n")
	for _, l := range t.lines {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d |\n", l.info.Name, l.info.Side, len(l.places), l.hits, l.once, l.twice, l.notMet, l.bad)
	}
	return b.String()
}
