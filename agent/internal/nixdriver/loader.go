package nixdriver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/agent/internal/bootentry"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// entryDirs are where a boot loader of the Boot Loader Specification has its entries:
// where the firmware's partition, or the one for them, is mounted.
var entryDirs = []string{"/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries"}

// grubDir is where GRUB's menu and environment are.
const grubDir = "/boot/grub"

// WhyNotOnce says why no system can be booted once on this host; empty where one can.
func (d *NixOS) WhyNotOnce() (string, error) {
	_, why, err := d.loader()
	return why, err
}

// loader is the boot loader that can boot something once; otherwise why there is none.
// That it has an entry for what was booted shows that its entries are read rightly.
func (d *NixOS) loader() (once driver.BootOnce, why string, err error) {
	booted, err := d.resolve(bootedSystem)
	if err != nil || booted == "" {
		return driver.BootOnce{}, "nothing tells what was booted", err
	}
	init := filepath.Join(booted, initProgram)
	grub := d.there(filepath.Join(grubDir, "grub.cfg"))
	// Without firmware that systemd-boot could run on, its entries are another day's.
	if !grub || d.there(variables) {
		if once, why, err = d.systemdBoot(init); err != nil || why == "" || !grub {
			return once, why, err
		}
	}
	return d.grub(init)
}

func (d *NixOS) there(file string) bool {
	_, err := os.Stat(d.at(file))
	return err == nil
}

// oldProgram is a program of the old system's, which stays.
func (d *NixOS) oldProgram(name string) (string, error) {
	program, err := d.program(name)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(program) //nolint:wrapcheck // The caller says what it is for.
}

func (d *NixOS) systemdBoot(init string) (once driver.BootOnce, why string, err error) {
	program, err := d.oldProgram("bootctl")
	if err != nil {
		return driver.BootOnce{}, "it has no bootctl, so no systemd-boot that could boot a system once", nil //nolint:nilerr // That says so.
	}
	if why := d.firmware(); why != "" {
		return driver.BootOnce{}, why, nil
	}
	for _, dir := range entryDirs {
		boots, err := bootentry.Specification{Dir: d.at(dir)}.Boots(init)
		switch {
		case err == nil && boots:
			return driver.BootOnce{Program: program, Entries: d.at(dir)}, "", nil
		case err == nil:
			return driver.BootOnce{}, "what was booted is not surely what systemd-boot boots by default (loader.conf)", nil
		}
		if !errors.Is(err, bootentry.ErrNone) && !errors.Is(err, fs.ErrNotExist) {
			return driver.BootOnce{}, "", err //nolint:wrapcheck // It says what failed.
		}
	}
	return driver.BootOnce{}, "systemd-boot has no entry of what was booted", nil
}

// Variables of the firmware that systemd-boot has (systemd.io/BOOT_LOADER_INTERFACE).
const (
	variables   = "/sys/firmware/efi/efivars"
	loaderInfo  = "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	loaderEntry = "LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// firmware says why its variables don't let systemd-boot boot something once.
func (d *NixOS) firmware() string {
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(d.at(variables), name))
		return err == nil
	}
	switch {
	case !there(""):
		return "" // A container, say: what has no loader has no entries either.
	case !there(loaderInfo):
		return "it was not started by systemd-boot"
	case there(loaderEntry):
		return "its firmware overrides what boots by default: bootctl set-default '' undoes that"
	}
	return ""
}

// grub is GRUB where it can boot something once, and takes that back by itself: a host that
// would boot a system that panics again and again is worse off than one that waits for a
// person.
func (d *NixOS) grub(init string) (once driver.BootOnce, why string, err error) {
	program, err := d.oldProgram("grub-editenv")
	if err != nil {
		return driver.BootOnce{}, "it has no grub-editenv, so no GRUB that could boot a system once", nil //nolint:nilerr // That says so.
	}
	menu := bootentry.GRUB{Dir: d.at(grubDir)}
	forgets, err := menu.Forgets()
	if err != nil {
		return driver.BootOnce{}, "", err //nolint:wrapcheck // It says what failed.
	}
	if !forgets {
		return driver.BootOnce{}, "GRUB's menu does not boot a system once (next_entry): install the boot loader anew", nil
	}
	boots, err := menu.Boots(init)
	switch {
	case errors.Is(err, bootentry.ErrNone):
		return driver.BootOnce{}, "GRUB has no entry of what was booted", nil
	case err != nil:
		return driver.BootOnce{}, "", err //nolint:wrapcheck // As above.
	case !boots:
		return driver.BootOnce{}, "GRUB boots another entry by default than the menu's first, of what was booted (boot.loader.grub.default)", nil
	}
	if !d.there(filepath.Join(grubDir, "grubenv")) {
		return driver.BootOnce{}, "GRUB has no environment (" + grubDir + "/grubenv), so it can't boot a system once: install the boot loader anew", nil
	}
	if why, err = d.config.GRUBWrites(d.at(grubDir)); why != "" || err != nil {
		return driver.BootOnce{}, why, err
	}
	return driver.BootOnce{Loader: driver.LoaderGRUB, Program: program, Entries: d.at(grubDir)}, "", nil
}
