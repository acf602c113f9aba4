package quarantine_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/quarantine"
)

func TestLedger(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "attempts")
	enter := func(name string) (func(), error) { return quarantine.Open(dir).Enter(name) } // As a new process.
	for n := range quarantine.Max - 1 {
		if _, err := enter("a"); err != nil {
			t.Fatalf("attempt %d: %v", n, err)
		}
	}
	// One that ends makes good all before, and nothing is said of another thing.
	end, err := enter("a")
	if err != nil {
		t.Fatal(err)
	}
	end()
	for n := range quarantine.Max {
		if _, err := enter("a"); err != nil {
			t.Fatalf("attempt %d after one that ended: %v", n, err)
		}
	}
	if _, err := enter("a"); !errors.Is(err, quarantine.ErrDeadly) {
		t.Errorf("once more: %v", err)
	}
	if end, err = enter("b"); err != nil {
		t.Error(err)
	}
	end()
	if err := quarantine.Open(dir).Forget(); err != nil {
		t.Fatal(err)
	}
	if _, err := enter("a"); err != nil {
		t.Errorf("after a person's word: %v", err)
	}
}

// TestNoLedger: without room, or a place for it, all goes on.
func TestNoLedger(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*quarantine.Ledger{nil, quarantine.Open(filepath.Join(file, "below"))} {
		for range quarantine.Max + 1 {
			if _, err := l.Enter("a"); err != nil {
				t.Fatal(err)
			}
		}
	}
	var none *quarantine.Ledger
	if err := none.Forget(); err != nil {
		t.Error(err)
	}
}
