// Package quarantine remembers what the agent was at when it died, so that what kills it
// each time is left alone. A file for each such thing counts the attempts that did not
// end; it is gone when one does, however that went. The files are where they are gone
// after a boot, and need not be durable: only an agent that died alone left them.
package quarantine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Max is how often the agent may die of one thing.
const Max = 3

// ErrDeadly is returned for what the agent died of too often.
var ErrDeadly = errors.New("the agent died of it " + strconv.Itoa(Max) + " times")

// Ledger is the record of attempts. A nil one knows of none.
type Ledger struct{ dir string }

// Open returns the ledger in a directory, which it makes at its first attempt.
func Open(dir string) *Ledger { return &Ledger{dir: dir} }

// Enter begins an attempt at what has that name, in as many processes one after the
// other as it takes; the caller MUST call end when it is over. It returns ErrDeadly
// instead where the last Max did not come to their end. That nothing can be written keeps
// nobody from working. Names of one process are entered one at a time.
func (l *Ledger) Enter(name string) (end func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	file := l.file(name)
	died := attempts(file)
	if died >= Max {
		return nil, fmt.Errorf("%s: %w", name, ErrDeadly)
	}
	_ = os.MkdirAll(l.dir, 0o700)
	_ = os.WriteFile(file, []byte("xxx")[:died+1], 0o600)
	return func() { _ = os.Remove(file) }, nil // At worst it counts as one that did not end.
}

// attempts are those that a file counts, in bytes: torn, it is of one that has begun.
func attempts(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	return max(1, len(b))
}

// Forget lets all be tried again. An attempt that is under way counts as ended.
func (l *Ledger) Forget() error {
	if l == nil {
		return nil
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("forgetting what the agent died of: %w", err)
	}
	return nil
}

func (l *Ledger) file(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(l.dir, hex.EncodeToString(sum[:16]))
}
