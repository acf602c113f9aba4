package repo

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// TestTooManyLostHeads: what could not be read again is not written.
func TestTooManyLostHeads(t *testing.T) {
	r := &Repository{dir: t.TempDir()}
	first := LostHead{LogHead: fleet.LogHead{Seq: 1, Hash: strings.Repeat("0", 64)}, By: "ada", Reason: "restored"}
	if err := r.AddLostHeads([]LostHead{first}); err != nil {
		t.Fatal(err)
	}
	var more []LostHead
	for i := range maxLostFile/fleet.MaxReasonBytes + 1 {
		more = append(more, LostHead{LogHead: fleet.LogHead{Seq: uint64(i) + 2, Hash: fmt.Sprintf("%064x", i)}, By: "ada", Reason: strings.Repeat("x", fleet.MaxReasonBytes)})
	}
	err := r.AddLostHeads(more)
	if err == nil || !strings.Contains(err.Error(), "can be read") || ui.HintOf(err) == "" {
		t.Errorf("too many: %v", err)
	}
	if have, err := r.LostHeads(); err != nil || len(have) != 1 || have[0] != first {
		t.Errorf("%d are left: %v", len(have), err)
	}
}
