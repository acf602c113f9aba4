package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/test/measurements"
)

// section is the name of the table's section of the measurements.
const section = "fuzz"

// row is what came of the last run of a target.
type row struct {
	target                     string
	seconds                    int
	execs, interesting, corpus int64
	findings                   int
	revision, date             string
}

func (r row) cells() []string {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	findings := strconv.Itoa(r.findings)
	if r.findings > 0 {
		findings = "**" + findings + "**"
	}
	return []string{r.target, strconv.Itoa(r.seconds), n(r.execs), n(r.interesting), n(r.corpus), findings, r.revision, r.date}
}

// notYet stands for the seconds of a target that was never run.
const notYet = "not yet"

const heading = "| target | seconds | executions | new inputs | inputs | findings | revision | date |"

// parseTable reads the rows of the section's text, by target.
func parseTable(text string) (map[string]row, error) {
	_, table, _ := strings.Cut(text, heading+"\n")
	rows := map[string]row{}
	for line := range strings.Lines(table) {
		line, ok := strings.CutPrefix(strings.TrimSpace(line), "| ")
		if !ok {
			break
		}
		cells := strings.Split(strings.TrimSuffix(line, " |"), " | ")
		if cells[0] == "---" || len(cells) > 1 && cells[1] == notYet {
			continue
		}
		r, err := parseRow(cells)
		if err != nil {
			return nil, fmt.Errorf("the row %q of section %s is none that this command writes: %w; correct or remove it", line, section, err)
		}
		rows[r.target] = r
	}
	return rows, nil
}

func parseRow(cells []string) (r row, err error) {
	if len(cells) != len(row{}.cells()) {
		return r, fmt.Errorf("%d cells", len(cells))
	}
	r = row{target: cells[0], revision: cells[6], date: cells[7]}
	r.seconds, err = strconv.Atoi(cells[1])
	for i, to := range []*int64{&r.execs, &r.interesting, &r.corpus} {
		if err == nil {
			*to, err = strconv.ParseInt(cells[2+i], 10, 64)
		}
	}
	if err == nil {
		r.findings, err = strconv.Atoi(strings.Trim(cells[5], "*"))
	}
	return r, err //nolint:wrapcheck // It names the cell.
}

// byAge sorts targets: those that were never run come first, then those that
// were run on the earliest day.
func byAge(ts []target, was map[string]row) {
	slices.SortStableFunc(ts, func(a, b target) int { return cmp.Compare(was[a.name()].date, was[b.name()].date) })
}

// keep puts a row into the file. Rows of targets that are gone leave it.
func keep(file string, r row, all []target) error {
	return measurements.Update(file, section, func(text string) (measurements.Section, error) { //nolint:wrapcheck // It says what was written.
		rows, err := parseTable(text)
		if err != nil {
			return measurements.Section{}, err
		}
		rows[r.target] = r
		return measurements.Section{Name: section, Command: "make fuzz FUZZFLAGS=-write", Text: markdown(rows, all)}, nil
	})
}

// markdown is the section of the measurements: a row for each of all targets.
func markdown(rows map[string]row, all []target) string {
	rows = maps.Clone(rows)
	maps.DeleteFunc(rows, func(name string, _ row) bool { return !slices.Contains(names(all), name) })
	findings, execs, seconds := 0, int64(0), 0
	for _, r := range rows {
		findings, execs, seconds = findings+r.findings, execs+r.execs, seconds+r.seconds
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## Fuzzers\n")
	p("The fuzz targets, which are those of the decoders of what comes from outside or was stored. A row is that of a target's last run, and says of which revision and day; targets are run in parts. New inputs are those that reached code which no input before them had, inputs all such that there are now; those of earlier runs count, where the machine still has them. Findings are inputs that fail.\n")
	p("In all: %d of %d targets, %d s, %d executions, **%d findings**.\n", len(rows), len(all), seconds, execs, findings)
	p("%s", heading)
	p("| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |")
	for _, t := range all {
		r, ok := rows[t.name()]
		cells := r.cells()
		if !ok {
			cells = make([]string, len(cells))
			cells[0], cells[1] = t.name(), notYet
		}
		p("| %s |", strings.Join(cells, " | "))
	}
	return b.String()
}
