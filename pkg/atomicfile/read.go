package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge is a file of more bytes than its reader takes.
var ErrTooLarge = errors.New("file is too large")

// ReadAtMost reads a file of at most so many bytes: what is larger is none that
// was written here, and must not fill the memory. Errors name the file; a missing
// one is os.ErrNotExist, one that is larger ErrTooLarge.
func ReadAtMost(path string, most int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // The caller names its own file.
	if err != nil {
		return nil, err //nolint:wrapcheck // os errors name the file.
	}
	defer func() { _ = f.Close() }() // Only read.
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("reading %s: %w: it has more than %d bytes", path, ErrTooLarge, most)
	}
	return data, nil
}
