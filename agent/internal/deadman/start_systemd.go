package deadman

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// startTimeout bounds having systemd start a switch.
const startTimeout = 10 * time.Second

// Units starts switches as transient services of systemd: nothing that becomes of
// the agent's own service ends them, and systemd starts one again that is killed.
// A service, because a timer starves while a switch reloads systemd again and
// again, and transient, because switch-to-configuration leaves those alone.
type Units struct {
	// Command calls Main with the argument appended to it; an absolute path first.
	Command []string
	// Run is the program systemd-run.
	Run string
}

// Start is a Start.
func (u *Units) Start(ctx context.Context, dir, log string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// A name of its own: one that has failed would block it.
	name := "fleet-dead-man-" + filepath.Base(dir) + "-" + strings.ToLower(rand.Text()[:8])
	argv := append([]string{
		"--quiet", "--collect", "--no-ask-password", "--unit=" + name, "--service-type=exec",
		"--description=fleet dead-man switch (" + filepath.Base(dir) + ")",
		"--property=Restart=on-failure", "--property=RestartSec=1",
		// A way back goes on where the switch is killed, and the next one waits for it.
		"--property=KillMode=process",
		"--property=OOMScoreAdjust=-900",
		"--property=StandardOutput=append:" + log, "--property=StandardError=append:" + log,
		"--",
	}, slices.Concat(u.Command, []string{dir})...)
	if out, err := exec.CommandContext(ctx, u.Run, argv...).CombinedOutput(); err != nil { //nolint:gosec // The agent's own program.
		return fmt.Errorf("starting service %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
