package main

import (
	"strings"
	"testing"
)

func TestRowsAreRead(t *testing.T) {
	rs, err := read(strings.NewReader(`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"T/a"}
{"Action":"attr","Package":"p","Test":"T/a","Key":"side","Value":"host"}
{"Action":"attr","Package":"p","Test":"T/a","Key":"attack","Value":"a b"}
{"Action":"attr","Package":"p","Test":"T/b","Key":"side","Value":"coordinator"}
{"Action":"skip","Package":"p","Test":"T/b"}
{"Action":"pass","Package":"p","Test":"T/a"}
{"Action":"pass","Package":"p"}
`))
	if err != nil || len(rs.rows()) != 2 {
		t.Fatalf("%d rows, %v", len(rs.rows()), err)
	}
	text := markdown(rs.rows(), "here")
	for _, want := range []string{"| a b |  |  |  |  |  |  | yes |", "**NO**", "1 rows, 1 violations.", "1 rows, 0 violations."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	if failed := rs.report(t.Output()); len(failed) > 0 {
		t.Errorf("failed: %q", failed)
	}
}

func TestNoJSON(t *testing.T) {
	rs, err := read(strings.NewReader(`{"Action":"run","Package":"p","Test":"T/a"}
panic
`))
	if err == nil || !strings.Contains(err.Error(), "panic") || len(rs) != 1 {
		t.Errorf("%d results, %v", len(rs), err)
	}
}

// TestFailuresAreNamed: each with what go test says of it, and what only failed
// through another by no name.
func TestFailuresAreNamed(t *testing.T) {
	rs, err := read(strings.NewReader(`{"ImportPath":"q [q.test]","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"q [q.test]","Action":"build-fail"}
{"Action":"run","Package":"p","Test":"T"}
{"Action":"run","Package":"p","Test":"T/good"}
{"Action":"output","Package":"p","Test":"T/good","Output":"well\n"}
{"Action":"run","Package":"p","Test":"T/bad"}
{"Action":"output","Package":"p","Test":"T/bad","Output":"address in use\n"}
{"Action":"run","Package":"p","Test":"T/hung"}
{"Action":"pass","Package":"p","Test":"T/good"}
{"Action":"fail","Package":"p","Test":"T/bad"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"output","Package":"p","Output":"exit status 1\n"}
{"Action":"fail","Package":"p"}
{"Action":"output","Package":"r","Output":"found a leak\n"}
{"Action":"fail","Package":"r"}
`))
	if err != nil {
		t.Fatal(err)
	}
	var w strings.Builder
	if got := strings.Join(rs.report(&w), ", "); got != "q [q.test], p T/bad, p T/hung, r" {
		t.Errorf("named are %s", got)
	}
	for _, want := range []string{"undefined: x", "address in use", "exit status 1", "found a leak"} {
		if !strings.Contains(w.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, w.String())
		}
	}
	if strings.Contains(w.String(), "well") {
		t.Errorf("the output of what passed is in:\n%s", w.String())
	}
}
