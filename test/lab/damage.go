//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// cutAndDamage cuts the agent's host's power and empties files of its store, as
// that power loss does to what was never synced. The host boots when it is done.
func (w *world) cutAndDamage(ctx context.Context, files ...string) error {
	if err := w.web.Disk.CommitJournal(); err != nil {
		return err
	}
	if err := w.web.PowerLoss(ctx); err != nil {
		return err
	}
	for _, file := range files {
		at := w.web.KeptPath(file)
		fi, err := os.Lstat(at)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
			return fmt.Errorf("%s can't be damaged: %w", file, errors.Join(err, errors.New("want a file with content")))
		}
		if err := errors.Join(os.Chmod(at, 0o600), os.Truncate(at, 0), os.Chmod(at, fi.Mode().Perm())); err != nil {
			return err
		}
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	return w.connected(ctx)
}

// etcOf is where a system's etc is in the store.
func (w *world) etcOf(ctx context.Context, s system) (string, error) {
	out, err := w.web.Run(ctx, "readlink", "-f", s.toplevel+"/etc")
	return strings.TrimSpace(out), err
}

// withFile is a release with a file that its boot does not need.
func withFile() release { return release{files: map[string]string{"motd": "welcome\n"}} }

func damagedConfirmed(ctx context.Context, w *world) error {
	if err := w.becomesGood(ctx, withFile()); err != nil {
		return err
	}
	before := w.good
	if err := w.becomesGood(ctx, withFile()); err != nil {
		return err
	}
	var files []string
	for _, s := range []system{before, w.good} {
		etc, err := w.etcOf(ctx, s)
		if err != nil {
			return err
		}
		files = append(files, s.toplevel+"/kernel-params", etc+"/motd")
	}
	// Each has a path of its own, but for what does not differ.
	slices.Sort(files)
	if err := w.cutAndDamage(ctx, slices.Compact(files)...); err != nil {
		return err
	}
	p, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return strings.Contains(p.Reason.Message, "it was mended") })
	if err != nil {
		return err
	}
	if p.State != "confirmed" || p.Reason.Code != "crash-recovery" || !strings.Contains(p.Reason.Message, before.toplevel) || !strings.Contains(p.Reason.Message, w.good.toplevel) {
		return fmt.Errorf("status says %s", p)
	}
	for _, s := range []system{before, w.good} {
		if err := errors.Join(w.whole(ctx, s), w.activated(ctx, s, 1)); err != nil {
			return err
		}
	}
	if err := w.runs(ctx, w.good); err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}

// damagedMidway empties what would have the activation and the way back fail: a
// switch that is empty, and the unit that is compared with.
func damagedMidway(ctx context.Context, w *world) error {
	before := w.good
	d, err := w.inTheMidst(ctx)
	if err != nil {
		return err
	}
	old, err := w.etcOf(ctx, before)
	if err != nil {
		return err
	}
	if err := w.cutAndDamage(ctx, d.toplevel+"/bin/switch-to-configuration", before.toplevel+"/kernel-params", old+"/systemd/system/lab-web.service"); err != nil {
		return err
	}
	if err := w.isGood(ctx, d, 2); err != nil {
		return err
	}
	return errors.Join(w.whole(ctx, before), w.whole(ctx, d.system))
}

// stagedIsDurable looks at what is on the disk before the agent does, which would
// mend it. The switch would sync the store.
func stagedIsDurable(ctx context.Context, w *world) error {
	if _, err := w.web.Run(ctx, "fleet-agent", "pause", "power is lost"); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "disable", "-q", "fleet-agent"); err != nil {
		return err
	}
	d, err := w.deploy(ctx, release{})
	if err != nil {
		return err
	}
	if err := wait(ctx, settleTimeout, func() error {
		_, err := w.web.Run(ctx, "grep", "-q", `"kind":"staged".*"path":"`+d.toplevel+`"`, "/var/lib/fleet/agent/journal")
		return err
	}); err != nil {
		return fmt.Errorf("it is not staged: %w", err)
	}
	if err := w.web.Disk.CommitJournal(); err != nil {
		return err
	}
	if err := w.web.PowerLoss(ctx); err != nil {
		return err
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	whole := w.whole(ctx, d.system)
	if _, err := w.web.Run(ctx, "systemctl", "enable", "-q", "--now", "fleet-agent"); err != nil {
		return errors.Join(whole, err)
	}
	if err := errors.Join(whole, w.activated(ctx, d.system, 0), w.connected(ctx)); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "fleet-agent", "resume"); err != nil {
		return err
	}
	return w.isGood(ctx, d, 1)
}
