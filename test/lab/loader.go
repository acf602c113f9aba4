//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

// loaderGroup is the group that boots a machine.
const loaderGroup = "Boot loader"

func loaderScenarios() []scenario {
	return []scenario{
		{"a kernel that works", "a machine with a firmware and systemd-boot: booted once by a variable of the firmware, which is gone then, verified, and only then what boots by default; switched to by nothing else", loadedKernelWorks},
		{"a kernel that panics", "it finds no root, panics and boots anew by itself: the machine is back with the old system in seconds: boot-failed, refused, and status says so", loadedKernelPanics},
	}
}

const (
	// machineParts is where the host has what booted.Parts made.
	machineParts = "/usr/lib/lab-machine"
	// kernels is where the systems' kernels are, by the names that releases give them.
	kernels = "/usr/lib/lab-kernels"
	// machineParams of the kernel: its disks, where it prints, and what makes it quick to
	// boot; and that a panic ends in a boot.
	machineParams = "root=/dev/vdb console=ttyS0 net.ifnames=0 mitigations=off systemd.show_status=0 quiet panic=1"
	// emulated is alone for a machine of which each instruction is emulated.
	emulated = "{verifyDeadline: 120s, activationDeadline: 120s, reboot: auto}"
	// loaderTimeout bounds all reboots of one scenario.
	loaderTimeout = 4 * time.Minute
	// oneShotVariable of the firmware says what is booted once.
	oneShotVariable = "/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
)

// setUpLoader has a host be installed in a container, and boots it then as a machine, with
// a firmware, a boot loader and a kernel of its own.
func setUpLoader(ctx context.Context, w *world) error {
	parts, err := booted.Parts(ctx, w.cached, w.lab.Base(), w.log)
	if err != nil {
		return err
	}
	w.machine = parts
	if err := setUpAgents(ctx, w); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, `mkdir `+kernels+`
cd `+kernels+`
for name in "" -works -panics; do
	ln -s `+machineParts+`/kernel kernel$name
	ln -s `+machineParts+`/initrd initrd$name
	ln -s `+machineParts+` kernel-modules$name
done
ln -sf `+machineParts+`/initrd-without-drivers initrd-panics`); err != nil {
		return err
	}
	if err := w.becomesGood(ctx, w.loaded("", nil)); err != nil {
		return err
	}
	if err := w.web.PowerOff(ctx); err != nil {
		return err
	}
	if err := w.web.BecomeMachine(ctx, parts); err != nil {
		return err
	}
	if err := w.web.Boot(ctx); err != nil {
		return err
	}
	if _, err := w.until(ctx, settleTimeout, func(p profileStatus) bool { return p.State == "confirmed" && p.Reason.Code == "up-to-date" }); err != nil {
		return err
	}
	if err := w.fleetFile(ctx, nixosSource, emulated); err != nil {
		return err
	}
	return w.loaderHas(ctx, w.good)
}

// loaded is a release with a kernel of that name that the machine's loader finds.
func (w *world) loaded(name string, settings map[string]string) release {
	all := map[string]string{"kernels": kernels, "params": "'" + machineParams + "'", "menu": "0"}
	maps.Copy(all, settings)
	return w.kernel(name, all)
}

// loaderHas checks, by what the real bootctl says of the real loader, that a system is what
// it booted and what it boots by default, and that it boots nothing else once.
func (w *world) loaderHas(ctx context.Context, s system) error {
	out, err := w.web.Shell(ctx, `bootctl status --no-pager
! [ -e `+oneShotVariable+` ]
grep -q "init=`+s.toplevel+`/init " /proc/cmdline`)
	if err != nil {
		return err
	}
	_, entry, _ := strings.Cut(out, "Default Boot Loader Entry:")
	if !strings.Contains(out, "Product: systemd-boot") || !strings.Contains(entry, "init="+s.toplevel+"/init ") {
		return fmt.Errorf("by default the loader boots another one than %s: %s", s.toplevel, out)
	}
	return nil
}

// bootsLoaded has the machine boot a release, and follows its reboots.
func (w *world) bootsLoaded(ctx context.Context, name string, times int) (deployed, error) {
	d, err := w.deploy(ctx, w.loaded(name, nil))
	if err != nil {
		return d, err
	}
	return d, w.web.FollowReboots(ctx, times, loaderTimeout, nil)
}

func loadedKernelWorks(ctx context.Context, w *world) error {
	d, err := w.bootsLoaded(ctx, "-works", 1)
	if err != nil {
		return err
	}
	w.booted = "-works"
	return errors.Join(w.isBooted(ctx, d), w.loaderHas(ctx, d.system))
}

// panicked is what a kernel says last.
const panicked = "Kernel panic - not syncing: VFS: Unable to mount root fs"

func loadedKernelPanics(ctx context.Context, w *world) error {
	before, err := w.web.Printed(panicked)
	if err != nil {
		return err
	}
	d, err := w.bootsLoaded(ctx, "-panics", 2)
	if err != nil {
		return err
	}
	n, err := w.web.Printed(panicked)
	if err == nil && n != before+1 {
		err = fmt.Errorf("the kernel panicked %d times, want once", n-before)
	}
	return errors.Join(err, w.isBack(ctx, d, "boot-failed"), w.loaderHas(ctx, w.good))
}
