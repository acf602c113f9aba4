package auditlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	memoryFile = "log-head.json"
	// maxMemory bounds the file, in bytes.
	maxMemory = 4 << 10
)

// Memory is what an operator saw of an event log last, on this machine.
type Memory struct {
	Seen fleet.LogHead `json:"seen"`
	Time time.Time     `json:"time"`
	// Signed is when a head was countersigned last, SignedSeq which.
	Signed    time.Time `json:"signed,omitzero"`
	SignedSeq uint64    `json:"signed_seq,omitempty"`
}

// Recall reads the memory in dir; zero where nothing was seen yet.
func Recall(dir string) (Memory, error) {
	path := filepath.Join(dir, memoryFile)
	data, err := atomicfile.ReadAtMost(path, maxMemory)
	if errors.Is(err, os.ErrNotExist) {
		return Memory{}, nil
	}
	var m Memory
	if err == nil {
		m, err = decodeMemory(data)
	}
	if err != nil {
		return Memory{}, ui.WithHint(fmt.Errorf("reading what was seen of the event log: %s: %w", path, err),
			"remove it, and compare with what others know: fleetctl audit heads")
	}
	return m, nil
}

func decodeMemory(data []byte) (Memory, error) {
	var m Memory
	if err := strictjson.Unmarshal(data, maxMemory, &m); err != nil {
		return Memory{}, err //nolint:wrapcheck // It says what failed.
	}
	return m, m.Seen.Validate() //nolint:wrapcheck // It says what failed.
}

// Remember lets change change the memory in dir, while no other process does.
func Remember(dir string, change func(*Memory)) error {
	err := remember(dir, change)
	if err != nil {
		return fmt.Errorf("remembering what was seen of the event log: %w", err)
	}
	return nil
}

func remember(dir string, change func(*Memory)) error {
	d, err := os.Open(dir) //nolint:gosec // The operator's own directory.
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // Only read; it ends the lock.
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", dir, err)
	}
	m, err := Recall(dir)
	if err != nil {
		return err
	}
	change(&m)
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(filepath.Join(dir, memoryFile), append(data, '\n'), 0o600)
}
