package coordinator

import "testing"

func TestTrimmer(t *testing.T) {
	const mb = 1 << 20
	var tr trimmer
	for i, step := range []struct {
		allocated uint64
		want      bool
	}{
		{5 * mb, false},       // work
		{5*mb + 100, false},   // quiet, but not worth while
		{90 * mb, false},      // work
		{180 * mb, false},     // still
		{180*mb + 100, true},  // quiet after work
		{180*mb + 200, false}, // nothing new to give back
		{190 * mb, false},     // work
		{190*mb + 1, false},   // too little of it
		{200 * mb, false},
		{200*mb + 1, true},
	} {
		if got := tr.quiet(step.allocated); got != step.want {
			t.Errorf("look %d at %d bytes: %v", i, step.allocated, got)
		}
	}
}
