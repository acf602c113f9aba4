package deadman

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// Names of the program that is kept, in the directory above the switches'.
const (
	// fileProgram is not as the program calls itself: one of before Resume had that
	// name, and must not be what the unit of after a boot finds.
	fileProgram = "fleet-dead-man"
	fileOf      = "program-of"
)

// origin is the file that the kept program was copied from, as it was then.
type origin struct {
	Path    string `json:"path"`
	Dev     uint64 `json:"dev"`
	Ino     uint64 `json:"ino"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mod_time"` // unix nanoseconds
}

// Keep keeps a copy of a program in dir, durably, and returns its path: a
// generation may replace the program that is installed by one that does not even
// start. What is a copy of that very file already stays as it is, and so does any
// copy while an order waits: the program may be part of what is to be taken back.
// Keep again when it is over.
func Keep(dir, program string) (string, error) {
	kept := filepath.Join(dir, fileProgram)
	fi, err := os.Lstat(kept)
	there := err == nil && fi.Mode().IsRegular()
	orders, err := ordersBelow(dir)
	if err != nil {
		return "", err
	}
	if there && len(orders) > 0 {
		return kept, nil
	}
	of, err := originOf(program)
	if err != nil {
		return "", err
	}
	var was origin
	if err := readJSON(filepath.Join(dir, fileOf), &was); err == nil && there && was == of && fi.Size() == of.Size {
		return kept, nil
	}
	src, err := os.Open(program) //nolint:gosec // The agent's own program.
	if err != nil {
		return "", fmt.Errorf("keeping the program: %w", err)
	}
	defer func() { _ = src.Close() }()
	err = atomicfile.Write(kept, 0o700, func(w io.Writer) error {
		_, err := io.Copy(w, src)
		return err //nolint:wrapcheck // Said below.
	})
	if err != nil {
		return "", fmt.Errorf("keeping the program: %w", err)
	}
	data, err := json.Marshal(of)
	if err == nil {
		err = atomicfile.WriteFile(filepath.Join(dir, fileOf), data, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("keeping the program: %w", err)
	}
	return kept, nil
}

func originOf(program string) (origin, error) {
	fi, err := os.Stat(program)
	if err != nil {
		return origin{}, fmt.Errorf("keeping the program: %w", err)
	}
	o := origin{Path: program, Size: fi.Size(), ModTime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		o.Dev, o.Ino = uint64(st.Dev), st.Ino //nolint:gosec,unconvert // Signed on macOS.
	}
	return o, nil
}
