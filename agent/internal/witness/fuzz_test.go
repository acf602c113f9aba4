package witness

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzLine: whatever a peer sends is a short line without what a terminal obeys, or an
// error.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"here\n", "coordinator\n", "yes\n", "no route\n", "no\x1b[2J\n", strings.Repeat("y", 2000), "\n", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		line, err := readLine(bytes.NewReader(data), maxAnswer)
		if err != nil {
			return
		}
		if len(line) >= maxAnswer || strings.Contains(line, "\n") || !bytes.HasPrefix(data, []byte(line+"\n")) {
			t.Fatalf("%q is read as %q", data, line)
		}
		if err := answered(line); err != nil && strings.ContainsAny(err.Error(), "\x00\x07\x1b\r") {
			t.Fatalf("%q has control characters", err)
		}
	})
}
