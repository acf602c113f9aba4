//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLedger: what was tried is there after an interruption, also in the midst of a
// line, and what violated something is not.
func TestLedger(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tried")
	h := head{Revision: "abc", First: true}
	at := func(n int) row { return row{hit{"agent", "journal.append", "staged"}, 3, n} }
	first := []outcome{
		{row: at(1)},
		{row: at(2), once: errNotMet},
		{row: at(3), twice: errNoMore},
		{row: at(4), twice: errNotMet},
		{row: at(5), once: errors.New("lost")},
		{row: at(6), twice: errors.New("lost")},
	}
	l, err := openLedger(file, h)
	must(t, err)
	for _, o := range first {
		l.add(o)
	}
	must(t, l.close())
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, append(data, `{"Process":"agent","Poi`...), 0o600))

	l, err = openLedger(file, h)
	must(t, err)
	l.add(outcome{row: at(7)})
	must(t, l.close())
	l, err = openLedger(file, h)
	must(t, err)
	outcomes, tried := l.tried()
	must(t, l.close())
	want := append(first[:4:4], outcome{row: at(7)})
	if len(outcomes) != len(want) || len(tried) != len(want) {
		t.Fatalf("%d outcomes of %d rows", len(outcomes), len(tried))
	}
	for i, o := range outcomes {
		if o != want[i] {
			t.Errorf("%v, want %v", o, want[i])
		}
	}

	for _, other := range []head{{Revision: "abd", First: true}, {Revision: "abc"}, {Revision: "abc", First: true, Power: true}} {
		if _, err := openLedger(file, other); err == nil || !strings.Contains(err.Error(), "another run") {
			t.Errorf("%+v: %v", other, err)
		}
	}
	must(t, os.WriteFile(file, append(data, "{\"Stage\":99}\n"...), 0o600))
	if _, err := openLedger(file, h); err == nil || !strings.Contains(err.Error(), "stage") {
		t.Errorf("got %v", err)
	}
}
