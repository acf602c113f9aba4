package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	stdsync "sync"

	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const (
	// waitsDir has, by profile, what happened since something waits for the console.
	waitsDir = "console"
	// maxWaitsBytes bounds what is read of one.
	maxWaitsBytes = 8 << 10
)

// waiting is what is remembered of a profile that waits for the console. Its times are the
// clock's. It is no part of the journal: an older agent would not know the record, and it
// is of no interest once something has begun.
type waiting struct {
	reconcile.Waits
	// Past is the activation that was kept unverified when the wait began: that it runs
	// does not end the wait.
	Past string `json:"past,omitempty"`
	// Now is the generation that root lets begin at once.
	Now fleet.Digest `json:"now,omitempty"`
}

// waits keeps it, and its file.
type waits struct {
	path string

	mu  stdsync.Mutex
	is  waiting
	had bool // there is, or may be, a file
}

// openWaits reads what an agent before left. One that can't be read begins anew, which the
// policy bounds as well.
func openWaits(path string) (*waits, error) {
	w := &waits{path: path}
	data, err := atomicfile.ReadAtMost(path, maxWaitsBytes)
	if errors.Is(err, os.ErrNotExist) {
		return w, nil
	}
	w.had = true
	if err == nil {
		err = json.Unmarshal(data, &w.is)
	}
	if err != nil {
		w.is = waiting{}
		return w, fmt.Errorf("reading what waits for the console: %w", err)
	}
	return w, nil
}

func (w *waits) get() waiting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.is
}

// put has it be so for this agent alone.
func (w *waits) put(is waiting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.is = is
}

// change changes it, durably. Where that fails it is as changed for this agent, and as it
// was for the next.
func (w *waits) change(f func(*waiting)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.is)
	data, err := json.Marshal(w.is)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(w.path), 0o700)
	}
	if err == nil {
		w.had = true
		err = atomicfile.WriteFile(w.path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording what waits for the console: %w", err)
	}
	return nil
}

// begun ends the wait where something other began than what ran when it did.
func (w *waits) begun(activation string) {
	if is := w.get(); is != (waiting{}) && is.Past != activation {
		_ = w.forget() // What is left on the disk is found at the next decision.
	}
}

// forget ends the wait.
func (w *waits) forget() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.is = waiting{}
	if !w.had {
		return nil
	}
	if err := os.Remove(w.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting what waited for the console: %w", err)
	}
	w.had = false
	return nil
}
