package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/bootentry"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

var _ driver.Booter = (*NixOS)(nil)

// entryDirs are where a boot loader of the Boot Loader Specification has its entries:
// where the firmware's partition, or the one for them, is mounted.
var entryDirs = []string{"/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries"}

// Boot implements driver.Booter, by systemd-boot: the new system gets its entry while the
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
	profiled, err := d.resolve(systemProfile)
	if err != nil {
		return driver.Boot{}, err
	}
	if profiled != from {
		boot.Cannot = "what runs is not what boots"
		return boot, nil
	}
	once, why, err := d.loader()
	if err != nil || why != "" {
		boot.Cannot = why
		return boot, err
	}
	if boot.Alone, err = d.panics(to); err != nil {
		return driver.Boot{}, err
	}
	// Checks both paths, and finds what leads back.
	way, err := d.Activation(ctx, profile, from, to)
	if err != nil {
		return driver.Boot{}, err
	}
	set, err := d.setProfile(to)
	if err != nil {
		return driver.Boot{}, err
	}
	next := once
	next.Init = filepath.Join(to, initProgram)
	boot.Activate = driver.Action{Deadline: d.config.Deadline, Steps: []driver.Step{
		d.rootStep(from), d.rootStep(to), set, d.sync(), d.switchTo(from, "boot"), d.sync(), {BootOnce: &next},
	}}
	boot.Commit, boot.Rollback = way.Commit, way.Rollback
	boot.Rollback.Steps = append([]driver.Step{{BootOnce: &once}}, boot.Rollback.Steps...)
	for i := range boot.Rollback.Steps {
		// Before the boot the old system runs as it did.
		if x := boot.Rollback.Steps[i].Exec; x != nil && x.Argv[len(x.Argv)-1] == "test" {
			x.Unless = &driver.Link{Path: d.at(currentSystem), Target: from}
		}
	}
	return boot, nil
}

// initProgram of a system, below its path, is what its boot entry names.
const initProgram = "init"

// loader is the boot loader that can boot something once; otherwise why there is none.
// That it has an entry for what was booted shows that its entries are read rightly.
func (d *NixOS) loader() (once driver.BootOnce, why string, err error) {
	booted, err := d.resolve(bootedSystem)
	if err != nil || booted == "" {
		return driver.BootOnce{}, "nothing tells what was booted", err
	}
	program, err := d.program("bootctl")
	if err == nil {
		program, err = filepath.EvalSymlinks(program) // The old system's: it stays.
	}
	if err != nil {
		return driver.BootOnce{}, "it has no bootctl, so no systemd-boot that could boot a system once", nil //nolint:nilerr // That says so.
	}
	for _, dir := range entryDirs {
		_, err := bootentry.Find(d.at(dir), filepath.Join(booted, initProgram))
		if err == nil {
			return driver.BootOnce{Program: program, Entries: d.at(dir)}, "", nil
		}
		if !errors.Is(err, bootentry.ErrNone) && !errors.Is(err, fs.ErrNotExist) {
			return driver.BootOnce{}, "", err
		}
	}
	return driver.BootOnce{}, "systemd-boot has no entry of what was booted", nil
}

// panics says why a system's kernel would not boot anew by itself after a panic; empty
// where it does (kernel-parameters: panic=).
func (b *base) panics(system string) (string, error) {
	params, err := readParams(filepath.Join(b.at(system), "kernel-params"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading kernel parameters: %w", err)
	}
	for _, p := range strings.Fields(params) {
		if value, ok := strings.CutPrefix(p, "panic="); ok {
			if n, err := strconv.Atoi(value); err == nil && n != 0 {
				return "", nil
			}
		}
	}
	return "its kernel parameters have no panic=, so that a kernel that panics would stop there", nil
}
