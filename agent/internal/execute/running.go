package execute

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Running names the runs below dir that go on now, whoever started them. A
// directory that isn't there has none.
func Running(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("looking at runs: %w", err)
	}
	var ids []string
	for _, e := range entries {
		switch l, err := probeLock(filepath.Join(dir, e.Name(), fileLock)); {
		case err != nil:
			return nil, fmt.Errorf("looking at runs: %w", err)
		case l == lockHeld:
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}
