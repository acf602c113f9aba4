package deadman

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
)

// Units starts switches as transient services of systemd: nothing that becomes of
// the agent's own service ends them, and systemd starts one again that is killed.
// A service, because a timer starves while a switch reloads systemd again and
// again, and transient, because switch-to-configuration leaves those alone. A shutdown
// ends it while the file systems are mounted still; after the boot another one waits.
type Units struct {
	// Command calls Main with the argument appended to it; an absolute path first.
	Command []string
	// Systemd is where it listens.
	Systemd systemd.Address
}

// Start is a Start.
func (u *Units) Start(ctx context.Context, dir, log string, ahead bool) error {
	service := systemd.Service{
		// A name of its own: one that has failed would block it.
		Name:        "fleet-dead-man-" + filepath.Base(dir) + "-" + strings.ToLower(rand.Text()[:8]) + ".service",
		Description: "fleet dead-man switch (" + filepath.Base(dir) + ")",
		Argv:        append(slices.Clone(u.Command), dir), Log: log, Ahead: ahead,
		Again: true, Ends: true, OOMScore: -900,
	}
	return u.Systemd.StartTransient(ctx, service) //nolint:wrapcheck // It says what failed.
}
