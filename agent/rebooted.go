package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

const (
	// rebootsDir has, by profile, the newest reboot that was asked for on a way back.
	rebootsDir = "reboots"
	// maxRebootBytes bounds what is read of one.
	maxRebootBytes = 4 << 10
)

// askedReboot is a reboot on the way back from an activation.
type askedReboot struct {
	Activation string `json:"activation"`
	// BootID is of the boot that was to end.
	BootID string `json:"boot_id"`
	// Times is how often that was asked for; 0 for once, as older agents wrote it.
	Times int `json:"times,omitempty"`
}

// maxRebootAsks bounds how often a reboot is asked for in one boot: an agent may be ended
// between the record and the asking, as by the dead-man switch that starts it anew. However
// often it is asked for, the boot ends once.
const maxRebootAsks = 3

func (w *worker) rebootFile() string {
	return filepath.Join(w.a.config.below(rebootsDir), w.profile.FileName())
}

// askReboot puts on record, durably, that the host is about to be rebooted on the way
// back from an activation. It is no part of the journal: an older agent would not know
// the record.
func (w *worker) askReboot(act *journal.Activation) error {
	asked, err := w.rebootAsked(act)
	if err != nil {
		return err
	}
	next := askedReboot{Activation: act.ID, BootID: w.a.bootID, Times: 1}
	if asked.BootID == next.BootID {
		next.Times += asked.Times
	}
	data, err := json.Marshal(next)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(w.rebootFile()), 0o700)
	}
	if err == nil {
		err = atomicfile.WriteFile(w.rebootFile(), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording a reboot: %w", err)
	}
	return nil
}

// rebootAsked returns the reboot that was asked for on the way back from an activation; its
// zero value where none was.
func (w *worker) rebootAsked(act *journal.Activation) (askedReboot, error) {
	data, err := atomicfile.ReadAtMost(w.rebootFile(), maxRebootBytes)
	if errors.Is(err, os.ErrNotExist) {
		return askedReboot{}, nil
	}
	var r askedReboot
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil && r.BootID == "" {
		err = errors.New("it names no boot")
	}
	if err != nil {
		return askedReboot{}, fmt.Errorf("reading %s: %w", w.rebootFile(), err)
	}
	if r.Activation != act.ID {
		return askedReboot{}, nil
	}
	r.Times = max(r.Times, 1)
	return r, nil
}
