package fleetctl

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// FuzzParseHeads: of a file of heads each line counts, or is one of those that
// audit heads prints beside them, or the file is refused.
func FuzzParseHeads(f *testing.F) {
	hash := strings.Repeat("0f", 32)
	f.Add([]byte("7:" + hash + "  operator/ann\n8:" + hash + "\n"))
	f.Add([]byte("\nALARM: the event log lacks a record\n7:" + hash + " x"))
	f.Add([]byte("7:" + hash + "\r\n"))
	f.Add([]byte(" 7:" + hash))
	f.Add(bytes.Repeat([]byte("a"), 1<<17))
	f.Fuzz(func(t *testing.T, data []byte) {
		heads, err := parseHeads(bytes.NewReader(data))
		if err != nil {
			return
		}
		n := 0
		for line := range strings.SplitSeq(string(data), "\n") {
			text, _, _ := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
			if text == "" || strings.HasPrefix(text, "ALARM") {
				continue
			}
			if n == len(heads) || fmt.Sprintf("%d:%s", heads[n].Seq, heads[n].Hash) != text {
				t.Fatalf("line %q is not among %v", line, heads)
			}
			n++
		}
		if n != len(heads) {
			t.Errorf("%d lines, %d heads", n, len(heads))
		}
	})
}

// TestHeadsTooLarge: a file that would be cut short is refused, for what is
// behind the cut would count as never known.
func TestHeadsTooLarge(t *testing.T) {
	line := "7:" + strings.Repeat("0f", 32) + "\n"
	if heads, err := parseHeads(strings.NewReader(strings.Repeat(line, maxHeadsFile/len(line)+1))); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%d heads are taken: %v", len(heads), err)
	}
}
