package deadman

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/launchd"
	"github.com/cameronraysmith/fleet/pkg/service"
)

// launchWithin bounds how long launchd is asked to start a switch. Then there is another
// way, and for some time only that: who arms one must not wait for a launchd again and
// again that does nothing.
const (
	launchWithin      = 2 * time.Second
	launchdAgainAfter = 5 * time.Minute
)

// Jobs starts switches as jobs of a Mac's launchd: nothing that becomes of the agent's
// own ends them, and launchd starts one again that is killed. Safe for concurrent use.
type Jobs struct {
	// Command calls Main with the argument appended to it; an absolute path first.
	Command []string
	// Jobs are those of launchd, to be started again when they fail.
	Jobs *launchd.Jobs
	// Else starts a switch where launchd does not.
	Else Start
	// Warn says that launchd did not.
	Warn func(error)

	mu     sync.Mutex
	failed time.Time // when launchd last did not; zero for never
}

// Start is a Start.
func (j *Jobs) Start(ctx context.Context, dir, log string, ahead bool) error {
	if j.asks() {
		err := j.start(ctx, dir, log, ahead)
		if err == nil {
			return nil
		}
		j.mu.Lock()
		j.failed = time.Now() //nolint:forbidigo // For a pause, by the monotonic clock.
		j.mu.Unlock()
		j.Warn(err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return j.Else(ctx, dir, log, ahead)
}

// asks says whether launchd is to be asked.
func (j *Jobs) asks() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed.IsZero() || time.Since(j.failed) >= launchdAgainAfter //nolint:forbidigo // As above.
}

func (j *Jobs) start(ctx context.Context, dir, log string, ahead bool) error {
	// A label of its own: another one may be on its way out.
	id := filepath.Base(dir) + "." + strings.ToLower(rand.Text()[:8])
	limited, cancel := context.WithTimeout(ctx, launchWithin)
	defer cancel()
	if err := j.Jobs.StartLogged(limited, id, append(slices.Clone(j.Command), dir), log); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if !ahead {
		// Who waits for it has ten seconds: what does not run is to be known before.
		if err := j.Jobs.Up(ctx, id); err != nil {
			return err //nolint:wrapcheck // As above.
		}
	}
	j.Jobs.Clear(ctx) // Of the ones before.
	return nil
}

// kickstart starts a job, which is loaded first where it is not.
func kickstart(ctx context.Context, l service.Launchctl, label string, anew bool) error {
	const within = 30 * time.Second
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	loaded, err := l.Print(ctx, label)
	switch {
	case err != nil:
	case loaded != nil:
		err = l.Kickstart(ctx, label, anew)
	default:
		// Its property list has it run when it is loaded. Where there is none, no agent
		// belongs to this system.
		err = l.Bootstrap(ctx, service.DaemonList(label))
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", label, err)
	}
	return nil
}
