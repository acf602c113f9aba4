package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// result is what go test said of one test, of a package as a whole, or of a
// build.
type result struct {
	// name is that of the package, and of the test in it.
	name   string
	attrs  map[string]string
	result string
	output strings.Builder
	// begun says that it is a test that was run.
	begun bool
}

// results are those of a run, in the order in which they began.
type results []*result

// event is a line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Key, Value, Output string
}

// name is that of what the event is about. A build has an import path, with the
// test that it is for behind a space.
func (e event) name() string {
	return strings.TrimSpace(e.ImportPath + e.Package + " " + e.Test)
}

// read gathers what go test says. With an error it returns what it has so far.
func read(r io.Reader) (results, error) {
	byName := map[string]*result{}
	var rs results
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return rs, fmt.Errorf("reading what go test says: %w: %.200q", err, in.Text())
		}
		of := byName[e.name()]
		if of == nil {
			of = &result{name: e.name(), attrs: map[string]string{}}
			byName[of.name] = of
			rs = append(rs, of)
		}
		switch e.Action {
		case "run":
			of.begun = true
		case "attr":
			of.attrs[e.Key] = e.Value
		case "output", "build-output":
			of.output.WriteString(e.Output)
		case "pass", "fail", "skip", "build-fail":
			of.result = e.Action
		}
	}
	if err := in.Err(); err != nil {
		return rs, fmt.Errorf("reading what go test says: %w", err)
	}
	return rs, nil
}

// rows are the results that are rows of a table.
func (rs results) rows() []*result {
	var rows []*result
	for _, r := range rs {
		if r.attrs["side"] != "" {
			rows = append(rows, r)
		}
	}
	return rows
}

// report writes the output of what failed, and returns its names: those of a
// test and a package only where nothing in them failed by itself.
func (rs results) report(w io.Writer) []string {
	var failed []string
	for _, r := range rs {
		if r.failed() {
			failed = append(failed, r.name)
			fmt.Fprintf(w, "FAILED: %s\n%s\n", r.name, r.output.String())
		}
	}
	return slices.DeleteFunc(slices.Clone(failed), func(name string) bool {
		return slices.ContainsFunc(failed, func(other string) bool {
			return strings.HasPrefix(other, name+"/") || strings.HasPrefix(other, name+" ")
		})
	})
}

// failed says whether it ended badly, or began and did not end.
func (r *result) failed() bool {
	return r.result == "fail" || r.result == "build-fail" || r.result == "" && r.begun
}
