package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

var _ driver.Booter = (*NixOS)(nil)

// Boot implements driver.Booter, by systemd-boot or GRUB: the new system gets its entry while the
// old one stays what boots (the old system's own program makes the entries), and is
// booted once. A new system that panics, or is switched off, so leads back to the old one
// by the next boot, whatever the host's disk has.
func (d *NixOS) Boot(ctx context.Context, profile fleet.ProfileName, from, to string) (driver.Boot, error) {
	if profile != fleet.System || to == "" {
		return driver.Boot{}, nil
	}
	parts, err := d.bootParts(to)
	if err != nil || len(parts) == 0 {
		return driver.Boot{}, err
	}
	boot := driver.Boot{Parts: parts}
	if boot.Cannot, err = d.cannotBoot(from, to); err != nil || boot.Cannot != "" {
		return boot, err
	}
	once, why, err := d.loader()
	if err != nil || why != "" {
		boot.Cannot = why
		return boot, err
	}
	if boot.Cannot, err = d.room(once.Entries, to); err != nil || boot.Cannot != "" {
		return boot, err
	}
	if boot.Alone, err = d.panics(to); err != nil {
		return driver.Boot{}, err
	}
	// Checks both paths.
	way, err := d.Activation(ctx, profile, from, to)
	if err != nil {
		return driver.Boot{}, err
	}
	set, err := d.setProfile(to)
	if err != nil {
		return driver.Boot{}, err
	}
	unset, err := d.setProfile(from)
	if err != nil {
		return driver.Boot{}, err
	}
	next := once
	next.Stays, next.Init = filepath.Join(from, initProgram), filepath.Join(to, initProgram)
	// Before the boot the old system runs as it did.
	test := d.switchTo(from, "test")
	test.Exec.Unless = &driver.Link{Path: d.at(currentSystem), Target: from}
	action := func(steps ...driver.Step) driver.Action {
		return driver.Action{Deadline: d.config.Deadline, Steps: steps}
	}
	boot.Activate = action(d.rootStep(from), d.rootStep(to), set, d.sync(), d.switchTo(from, "boot"), d.sync(), driver.Step{BootOnce: &next})
	boot.Commit = way.Commit
	// The profile first: where the loader's entries are limited, only then the old
	// system has one again.
	boot.Rollback = action(driver.Step{BootOnce: &once}, d.rootStep(from), test, unset, d.sync(), d.switchTo(from, "boot"), d.sync())
	return boot, nil
}

// cannotBoot says why the next boot might not lead back to from; empty where it does.
func (d *NixOS) cannotBoot(from, to string) (string, error) {
	profiled, err := d.resolve(systemProfile)
	if err != nil {
		return "", err
	}
	if profiled != from {
		return "what runs is not what boots", nil
	}
	parts, err := d.bootParts(from)
	if err != nil {
		return "", err
	}
	if len(parts) > 0 {
		return "what runs was never booted itself: reboot the host first", nil
	}
	return "", d.built(to, initProgram)
}

// initProgram of a system, below its path, is what its boot entry names.
const initProgram = "init"

// room says why the loader's file system has none for what a system brings there; empty
// where it has.
func (d *NixOS) room(entries, system string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(entries, &st); err != nil {
		return "", fmt.Errorf("looking at %s: %w", entries, err)
	}
	var need uint64
	for _, file := range []string{"kernel", "initrd"} {
		info, err := os.Stat(filepath.Join(d.at(system), file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // It may be the loader that makes it.
		}
		if err != nil {
			return "", fmt.Errorf("looking at %s: %w", system, err)
		}
		need += uint64(info.Size()) //nolint:gosec // Of a file.
	}
	if free := st.Bavail * uint64(st.Bsize); free < need+bootReserve { //nolint:gosec,unconvert // Both are of a size that differs by system.
		return fmt.Sprintf("kernel and initrd take %d MiB, and %s has %d free", need>>20, entries, free>>20), nil
	}
	return "", nil
}

// bootReserve is what stays free of the loader's file system, for entries.
const bootReserve = 1 << 20

// panics says why a system's kernel would not boot anew by itself after a panic; empty
// where it does (kernel-parameters: panic=).
func (b *base) panics(system string) (string, error) {
	params, err := readParams(filepath.Join(b.at(system), "kernel-params"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading kernel parameters: %w", err)
	}
	for p := range strings.FieldsSeq(params) {
		if value, ok := strings.CutPrefix(p, "panic="); ok {
			if n, err := strconv.Atoi(value); err == nil && n != 0 {
				return "", nil
			}
		}
	}
	return "its kernel parameters have no panic=, so that a kernel that panics would stop there", nil
}
