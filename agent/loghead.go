package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

const (
	logHeadsFile = "log-heads.json"
	// maxLogHeadsBytes bounds the file: MaxKeptHeads of some 120 bytes each.
	maxLogHeadsBytes = 4 << 10
	// logHeadEvery is how far apart the heads are that a host keeps, by its own
	// clock. A captured coordinator that writes its log anew can have what a host
	// remembers forgotten only by telling it lies for MaxKeptHeads days, during
	// which everybody who looks sees the new log.
	logHeadEvery = 24 * time.Hour
)

// logHeads are heads of the coordinator's event log that this host was told, so
// that a log which is written anew shows to whoever reads the host's reports.
type logHeads struct {
	path string

	mu sync.Mutex // guards what follows
	keptHeads
}

// keptHeads is what is on disk.
type keptHeads struct {
	// Fleet whose log it is: another one's says nothing.
	Fleet fleet.FleetID    `json:"fleet"`
	Heads []fleet.KeptHead `json:"heads"`
}

// openLogHeads reads what was kept. What can't be read is no reason not to run.
func openLogHeads(dir string) (*logHeads, error) {
	l := &logHeads{path: filepath.Join(dir, logHeadsFile)}
	data, err := atomicfile.ReadAtMost(l.path, maxLogHeadsBytes)
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err //nolint:wrapcheck // It says what failed.
	}
	kept, err := decodeLogHeads(data)
	if err != nil {
		return l, err
	}
	l.keptHeads = kept
	return l, nil
}

func decodeLogHeads(data []byte) (keptHeads, error) {
	var kept keptHeads
	if err := strictjson.Unmarshal(data, maxLogHeadsBytes, &kept); err != nil {
		return keptHeads{}, err //nolint:wrapcheck // It says what failed.
	}
	for _, k := range kept.Heads {
		if err := k.Validate(); err != nil {
			return keptHeads{}, err //nolint:wrapcheck // It says what failed.
		}
	}
	kept.Heads = newestHeads(kept.Heads)
	return kept, nil
}

func newestHeads(heads []fleet.KeptHead) []fleet.KeptHead {
	return heads[max(0, len(heads)-fleet.MaxKeptHeads):]
}

// note keeps a head of a fleet's log, where the last one is old enough, and says
// whether it did.
func (l *logHeads) note(f fleet.FleetID, h fleet.LogHead, now time.Time) (kept bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := keptHeads{Fleet: f}
	if l.Fleet == f {
		next.Heads = slices.Clone(l.Heads)
	}
	if n := len(next.Heads); h.IsZero() || n > 0 && (next.Heads[n-1].LogHead == h || now.Sub(next.Heads[n-1].Time).Abs() < logHeadEvery) {
		return false, nil
	}
	next.Heads = newestHeads(append(next.Heads, fleet.KeptHead{LogHead: h, Time: now.UTC().Truncate(time.Second)}))
	data, err := json.Marshal(next)
	if err != nil {
		return false, err //nolint:wrapcheck // Of this program's own values.
	}
	if err := atomicfile.WriteFile(l.path, append(data, '\n'), 0o600); err != nil {
		return false, err //nolint:wrapcheck // It says what failed.
	}
	l.keptHeads = next
	return true, nil
}

// of returns what is kept of a fleet's log, oldest first.
func (l *logHeads) of(f fleet.FleetID) []fleet.KeptHead {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Fleet != f {
		return nil
	}
	return slices.Clone(l.Heads)
}
