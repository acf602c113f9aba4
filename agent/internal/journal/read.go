package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// Version is the format's version that this package writes; it reads all up to
// it.
const Version = 1

// ErrNewerState says that the state directory was written by a newer agent.
var ErrNewerState = errors.New("state directory is from a newer version")

// Names in the state directory.
const (
	fileJournal = "journal"
	fileVersion = "version"
	fileLock    = "lock"
)

// Read folds the journal in dir without taking its lock: also while an agent
// writes, and after its death. A missing journal is os.ErrNotExist.
func Read(dir string) (State, error) {
	if err := checkVersion(dir); err != nil {
		return State{}, err
	}
	path := filepath.Join(dir, fileJournal)
	f, err := os.Open(path) //nolint:gosec // The caller names its own state directory.
	if err != nil {
		return State{}, fmt.Errorf("reading journal: %w", err)
	}
	got, err := scan(f, path)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return State{}, err
	}
	return *got.state, nil
}

// checkVersion is os.ErrNotExist-free: no version file means a new directory.
func checkVersion(dir string) error {
	path := filepath.Join(dir, fileVersion)
	f, err := os.Open(path) //nolint:gosec // The caller names its own state directory.
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading version of state: %w", err)
	}
	defer func() { _ = f.Close() }()
	var buf [32]byte
	n, err := f.Read(buf[:])
	text := strings.TrimSpace(string(buf[:n]))
	v, perr := strconv.ParseUint(text, 10, 32)
	switch {
	case perr != nil:
		return fmt.Errorf("reading version of state: %s: %q is no version (%w); restore the file or write %d into it",
			path, text, errors.Join(perr, err), Version)
	case v > Version:
		return fmt.Errorf("%w: %s says %d, this agent knows %d: install the newer agent again", ErrNewerState, path, v, Version)
	case v == 0:
		return fmt.Errorf("reading version of state: %s: 0 is no version; write %d into it", path, Version)
	}
	return nil
}

func writeVersion(dir string) error {
	path := filepath.Join(dir, fileVersion)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := atomicfile.WriteFile(path, []byte(strconv.Itoa(Version)+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing version of state: %w", err)
	}
	return nil
}
