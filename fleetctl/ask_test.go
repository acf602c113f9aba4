package fleetctl

import (
	"bytes"
	"strings"
	"testing"
)

// TestAskLines: several lines are one answer, without the newline that ends the last; the
// next question begins where the last line ended.
func TestAskLines(t *testing.T) {
	for typed, want := range map[string]string{
		"one\n": "one", "one": "one", "one\ntwo\n": "one\ntwo", "one\r\n\nthree": "one\n\nthree", "\n": "",
	} {
		var shown bytes.Buffer
		o := &options{Stdin: strings.NewReader(typed), Stderr: &shown}
		got, err := o.askLines(t.Context(), "Key: ", false)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", typed, got, err)
		}
		if strings.Count(shown.String(), "Key: ") != 1 || !strings.Contains(shown.String(), "Ctrl-D") {
			t.Errorf("shown\n%s", &shown)
		}
	}
	o := &options{Stdin: strings.NewReader(""), Stderr: &bytes.Buffer{}}
	if _, err := o.askLines(t.Context(), "Key: ", false); err == nil || !strings.Contains(err.Error(), "nothing was done") {
		t.Errorf("no answer: %v", err)
	}
	o = &options{Stdin: strings.NewReader(strings.Repeat("0123456789\n", maxAnswer/10)), Stderr: &bytes.Buffer{}}
	if _, err := o.askLines(t.Context(), "Key: ", false); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too long: %v", err)
	}
}
