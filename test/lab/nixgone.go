//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

func goneScenarios() []scenario {
	return []scenario{
		{"the agent is stopped midway, and stays away", "the hanging switch is ended at its deadline, and the dead-man switch goes back, with no agent; the next agent refuses the release", agentGone},
		{"the agent hangs midway", "the dead-man switch goes back and starts the agent's unit anew, which refuses the release", agentHangs},
	}
}

// switchTimeout is when the dead-man switch has gone back at the latest: the
// deadlines of activation and verification, its margin, and the way back.
const switchTimeout = time.Minute

// restartTimeout is when the switch has started a hung agent anew at the latest. The
// watchdog would within two minutes.
const restartTimeout = 30 * time.Second

// inHaste has the host leave its dead-man switch short deadlines meanwhile, and a
// good system to go back to.
func (w *world) inHaste(ctx context.Context, use func() error) (err error) {
	if err := w.shortMargin(ctx); err != nil {
		return err
	}
	defer func() {
		_, back := w.web.Shell(ctx, "rm -f "+marginDropIn+"; systemctl daemon-reload && systemctl restart fleet-agent")
		err = errors.Join(err, back, w.fleetFile(ctx, nixosSource, patient))
	}()
	if err := w.becomesGood(ctx, release{}); err != nil {
		return err
	}
	if err := w.fleetFile(ctx, nixosSource, hasty); err != nil {
		return err
	}
	return use()
}

// marginDropIn is gone with the next boot.
const marginDropIn = "/run/systemd/system/fleet-agent.service.d/margin.conf"

// shortMargin has the agent's dead-man switch leave it seconds.
func (w *world) shortMargin(ctx context.Context) error {
	_, err := w.web.Shell(ctx, `argv=$(systemctl show -p ExecStart --value fleet-agent | sed 's/.*argv\[\]=\([^;]*\) ;.*/\1/')
mkdir -p $(dirname `+marginDropIn+`)
printf '[Service]\nExecStart=\nExecStart=%s --dead-man-margin 3s\n' "$argv" >`+marginDropIn+`
systemctl daemon-reload && systemctl restart fleet-agent`)
	return err
}

// wentBack waits until a system runs again, whatever the agent says.
func (w *world) wentBack(ctx context.Context, to system) error {
	return wait(ctx, switchTimeout, func() error {
		f, err := w.facts(ctx)
		if err == nil && f.Current != to.toplevel {
			err = fmt.Errorf("%s runs, want %s", f.Current, to.toplevel)
		}
		return err
	})
}

func agentGone(ctx context.Context, w *world) error {
	return w.inHaste(ctx, func() error {
		d, err := w.neverEnds(ctx)
		if err != nil {
			return err
		}
		if err := w.midway(ctx, d.system); err != nil {
			return err
		}
		if _, err := w.web.Run(ctx, "systemctl", "stop", "fleet-agent"); err != nil {
			return err
		}
		if err := w.firedBackTo(ctx, w.good); err != nil {
			return err
		}
		if _, err := w.web.Run(ctx, "systemctl", "start", "fleet-agent"); err != nil {
			return err
		}
		return w.isUndone(ctx, d)
	})
}

// firedBackTo waits until the switch fired, and checks what runs.
func (w *world) firedBackTo(ctx context.Context, to system) error {
	err := wait(ctx, switchTimeout, func() error {
		out, err := w.web.Shell(ctx, "cat /var/lib/fleet/agent/dead-man/system/outcome-* 2>/dev/null || true")
		if err == nil && !strings.Contains(out, `"back":true`) {
			err = fmt.Errorf("the dead-man switch says %q", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	return w.wentBack(ctx, to)
}

func agentHangs(ctx context.Context, w *world) error {
	return w.inHaste(ctx, func() error {
		d, err := w.neverEnds(ctx)
		if err != nil {
			return err
		}
		if err := w.midway(ctx, d.system); err != nil {
			return err
		}
		stopped, err := w.agentPID(ctx)
		if err != nil {
			return err
		}
		if _, err := w.web.Run(ctx, "systemctl", "kill", "--kill-whom=main", "-s", "STOP", "fleet-agent"); err != nil {
			return err
		}
		if err := w.firedBackTo(ctx, w.good); err != nil {
			return err
		}
		// By the switch, and not minutes later by the watchdog.
		err = wait(ctx, restartTimeout, func() error {
			now, err := w.agentPID(ctx)
			if err == nil && now == stopped {
				err = errors.New("the agent was not started anew")
			}
			return err
		})
		if err != nil {
			return err
		}
		return w.isUndone(ctx, d)
	})
}
