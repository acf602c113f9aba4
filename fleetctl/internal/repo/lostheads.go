package repo

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// maxLostHeads bounds the heads that a repository lists as lost.
	maxLostHeads = 200_000
	maxLostFile  = 64 << 20
)

// LostHead is a record of the event log that somebody saw, that is gone, and
// that an operator found out why of.
type LostHead struct {
	fleet.LogHead
	By     string    `json:"by"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// lostHeads is the content of trust/lost-heads.json.
type lostHeads struct {
	Heads []LostHead `json:"heads"`
}

func (l *lostHeads) check() error {
	if len(l.Heads) > maxLostHeads {
		return fmt.Errorf("it lists %d heads, at most %d", len(l.Heads), maxLostHeads)
	}
	for _, h := range l.Heads {
		if err := h.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// LostHeads reads the heads that are known to be lost.
func (r *Repository) LostHeads() ([]LostHead, error) {
	var l lostHeads
	err := r.readJSON(maxLostFile, &l, "trust", "lost-heads.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		if cerr := l.check(); cerr != nil {
			err = ui.WithHint(fmt.Errorf("reading trust/lost-heads.json: %w: %w", ErrCorrupt, cerr), "restore it from version control")
		}
	}
	if err != nil {
		return nil, err
	}
	return l.Heads, nil
}

// AddLostHeads records more of them. Errors: ErrLocked.
func (r *Repository) AddLostHeads(more []LostHead) error {
	unlock, err := r.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	have, err := r.LostHeads()
	if err != nil {
		return err
	}
	known := map[fleet.LogHead]bool{}
	for _, h := range have {
		known[h.LogHead] = true
	}
	for _, h := range more {
		if !known[h.LogHead] {
			have, known[h.LogHead] = append(have, h), true
		}
	}
	if len(have) > maxLostHeads {
		return fmt.Errorf("recording lost heads: %d, at most %d", len(have), maxLostHeads)
	}
	data, err := json.MarshalIndent(lostHeads{have}, "", "  ")
	switch {
	case err != nil:
		return fmt.Errorf("recording lost heads: %w", err)
	case len(data) >= maxLostFile:
		// One that could not be read again would keep every command from working.
		return ui.WithHint(fmt.Errorf("recording lost heads: trust/lost-heads.json would have %d bytes, at most %d can be read", len(data), maxLostFile), "give a shorter reason")
	}
	return r.Write(append(data, '\n'), "trust", "lost-heads.json")
}
