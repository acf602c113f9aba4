package execute

import (
	"strings"
	"testing"
)

func TestRuns(t *testing.T) {
	const line = "4711 (sh) S 1 4711 4711 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 99 1 1 1 1\n"
	for name, c := range map[string]struct {
		stat string
		want bool
	}{
		"sleeps":              {line, true},
		"a zombie":            {strings.NewReplacer(" S ", " Z ", " 20 0 1 ", " 20 0 0 ").Replace(line), false},
		"one not yet a whole": {strings.NewReplacer(" S ", " Z ", " 20 0 1 ", " 20 0 3 ").Replace(line), true},
		"dead":                {strings.Replace(line, " S ", " X ", 1), false},
		"a name like a state": {strings.Replace(line, "(sh)", "(x) Z 1 (y)", 1), true},
		"half a line":         {line[:20], false},
		"nothing":             {"", false},
	} {
		if got := runs([]byte(c.stat)); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
