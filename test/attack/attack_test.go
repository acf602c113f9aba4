package main

import (
	"strings"
	"testing"
)

func TestRowsAreRead(t *testing.T) {
	rows, err := read(strings.NewReader(`{"Action":"run","Package":"p","Test":"T/a"}
{"Action":"attr","Package":"p","Test":"T/a","Key":"side","Value":"host"}
{"Action":"attr","Package":"p","Test":"T/a","Key":"attack","Value":"a b"}
{"Action":"attr","Package":"p","Test":"T/b","Key":"side","Value":"coordinator"}
{"Action":"fail","Package":"p","Test":"T/b"}
{"Action":"pass","Package":"p","Test":"T/a"}
{"Action":"pass","Package":"p"}
`))
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	text := markdown(rows, "here")
	for _, want := range []string{"| a b |  |  |  |  |  | yes |", "**NO**", "1 rows, 1 violations.", "1 rows, 0 violations."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	if _, err := read(strings.NewReader("no JSON\n")); err == nil {
		t.Error("what is no JSON was read")
	}
}
