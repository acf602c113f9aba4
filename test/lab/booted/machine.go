//go:build linux

package booted

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A host is installed in a container, because that takes seconds, and may then become a
// machine: emulated, with a firmware, a boot loader and a kernel of its own. Its first
// disk is what the firmware boots from, with what the container had in /boot; its second
// is the root.

const (
	emulator = "qemu-system-x86_64"
	// machineBootTimeout bounds a boot: every instruction of it is emulated, on a machine
	// that may have other things to do.
	machineBootTimeout = 4 * time.Minute
	// machineStopTimeout bounds an orderly shutdown.
	machineStopTimeout = 2 * time.Minute
	// rootSize is that of a sparse file.
	rootSize = "3G"
)

// machine is what a host is that is no container.
type machine struct {
	parts      string // directory, of Parts
	disk, root string // images
	variables  string // image of what the firmware keeps
	console    string // file
	boots      int    // how many were followed, of those that the console has
}

// bootedBy is what the firmware writes to the console when it starts a boot loader.
const bootedBy = "BdsDxe: starting Boot"

// firmwareDisk makes the disk $1 that a firmware boots from, with what is in $2.
const firmwareDisk = `
truncate -s 192M "$1"
echo 'label: gpt
start=2048, size=385024, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B' | sfdisk -q "$1"
mkfs.vfat -F 32 --offset 2048 "$1" 192512
mcopy -s -i "$1@@1M" "$2"/* ::
`

// Files of a machine that a container has not: its own network, and a way in for Run.
const (
	machineNetwork = `[Unit]
Description=network of the lab
DefaultDependencies=no
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip link set eth0 up
ExecStart=ip address replace %s/64 dev eth0 nodad
`
	machineSocket = `[Unit]
Description=commands of the lab
DefaultDependencies=no

[Socket]
ListenStream=[::]:%d
Accept=yes
`
	machineCommand = `[Unit]
Description=a command of the lab
DefaultDependencies=no
CollectMode=inactive-or-failed

[Service]
ExecStart=/usr/local/sbin/lab-run
StandardInput=socket
KillMode=process
`
)

// unneeded are units that take a machine's time, or that its kernel has nothing for.
var unneeded = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"serial-getty@ttyS0.service", "getty@tty1.service", "systemd-modules-load.service", "systemd-pstore.service",
	"modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service",
	"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
	"sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
}

// BecomeMachine makes a machine of a host that is down: Boot boots that from now on, from
// what the host has in /boot, which MUST be one of Spec.Kept. Directories of Shared are
// copies from here on; see Refresh. parts is of Parts.
func (h *Host) BecomeMachine(ctx context.Context, parts string) error {
	if h.process != nil || h.machine != nil {
		return fmt.Errorf("%s is running, or is a machine", h.Name)
	}
	m := &machine{
		parts: parts, disk: filepath.Join(h.dir, "disk.img"), root: filepath.Join(h.dir, "root.img"),
		variables: filepath.Join(h.dir, "variables.fd"), console: filepath.Join(h.lab.Logs(), h.Name+".console"),
	}
	if err := h.makeDisks(ctx, m); err != nil {
		return fmt.Errorf("making a machine of %s: %w", h.Name, err)
	}
	port := "p-" + h.Name
	for _, args := range []string{"link delete " + port, "tuntap add dev " + port + " mode tap", "link set " + port + " master " + bridge + " up"} {
		if err := ip(ctx, switchSpace, args); err != nil {
			return fmt.Errorf("making a machine of %s: %w", h.Name, err)
		}
	}
	h.machine = m
	return nil
}

func (h *Host) makeDisks(ctx context.Context, m *machine) error {
	boot := h.kept["/boot"]
	if boot == "" {
		return errors.New("it keeps no /boot")
	}
	for _, f := range []struct {
		from, to string
		perm     os.FileMode
	}{
		{"systemd-boot.efi", filepath.Join(boot, "EFI/BOOT/BOOTX64.EFI"), 0o644},
		{"bootctl", h.Path("/usr/bin/bootctl"), 0o755},
		{"variables.fd", m.variables, 0o600},
	} {
		b, err := os.ReadFile(filepath.Join(m.parts, f.from))
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Dir(f.to), 0o755), os.WriteFile(f.to, b, f.perm))
		}
		if err != nil {
			return err
		}
	}
	units := "/etc/systemd/system/"
	errs := []error{
		h.Write(units+"lab-network.service", fmt.Sprintf(machineNetwork, h.Address), 0o644),
		h.Write(units+"lab-run.socket", fmt.Sprintf(machineSocket, commandPort), 0o644),
		h.Write(units+"lab-run@.service", machineCommand, 0o644),
		h.Write("/usr/local/sbin/lab-run", runCommand, 0o755),
		// What was logged before a boot is kept for whoever looks for what went wrong.
		os.MkdirAll(h.Path("/var/log/journal"), 0o755),
		h.link(units+"default.target", "/usr/lib/systemd/system/multi-user.target"),
		h.link(units+"multi-user.target.wants/lab-network.service", "../lab-network.service"),
		h.link(units+"sockets.target.wants/lab-run.socket", "../lab-run.socket"),
	}
	for _, u := range unneeded {
		errs = append(errs, h.link(units+u, "/dev/null"))
	}
	for dir, from := range h.kept {
		if dir != "/boot" {
			errs = append(errs, h.lab.mount(ctx, h.Path(dir), "--bind", from))
		}
	}
	for _, s := range h.shared {
		errs = append(errs, h.lab.mount(ctx, h.Path(s.At), "--bind", s.From))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := run(ctx, "sh", "-euc", firmwareDisk, "sh", m.disk, boot); err != nil {
		return err
	}
	return run(ctx, "mkfs.ext4", "-q", "-F", "-d", h.Path("/"), m.root, rootSize)
}

// link makes a symbolic link of the host's overlay.
func (h *Host) link(file, to string) error {
	path := h.Path(file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(to, path)
}

// argv starts the machine. Its disks are written as what the machine flushes demands; a
// reset boots it anew, as it does real ones.
func (m *machine) argv(name string) []string {
	drive := func(id, file string) string { return "if=none,format=raw,cache=writeback,id=" + id + ",file=" + file }
	return []string{
		// Without KVM: the lab may be in a virtual machine itself. Little is kept of what was
		// translated: after a reset the firmware would take minutes, because each write to
		// memory in which the kernel's code was looks for what is to be translated anew.
		emulator, "-name", prefix + name, "-accel", "tcg,tb-size=32", "-machine", "q35", "-cpu", "qemu64,+rdrand", "-smp", "1", "-m", "768",
		"-nodefaults", "-display", "none", "-rtc", "base=utc",
		"-drive", "if=pflash,format=raw,readonly=on,file=" + filepath.Join(m.parts, "firmware.fd"),
		"-drive", "if=pflash,format=raw,file=" + m.variables,
		"-drive", drive("disk", m.disk), "-device", "virtio-blk-pci,drive=disk,bootindex=0",
		"-drive", drive("root", m.root), "-device", "virtio-blk-pci,drive=root",
		"-netdev", "tap,id=net,script=no,downscript=no,ifname=p-" + name, "-device", "virtio-net-pci,netdev=net,romfile=",
		"-chardev", "file,id=console,append=on,path=" + m.console, "-serial", "chardev:console",
	}
}

// startMachine is start of a host that is a machine.
func (h *Host) startMachine() error {
	var err error
	if h.machine.boots, err = h.machine.started(); err != nil {
		return err
	}
	h.machine.boots++ // The one that begins now.
	errs, err := os.OpenFile(filepath.Join(h.lab.Logs(), h.Name+".emulator"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = errs.Close() }()
	argv := append([]string{"--net=/run/netns/" + switchSpace, "--"}, h.machine.argv(h.Name)...)
	// nsenter becomes the emulator.
	cmd := exec.Command("nsenter", argv...) //nolint:noctx // The host outlives contexts: Kill and PowerOff end it.
	cmd.Stdout, cmd.Stderr = errs, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.process, h.ended = cmd, make(chan struct{})
	go func() {
		defer close(h.ended)
		_ = cmd.Wait()
	}()
	return nil
}

// started is how many boots the firmware has begun, by its console.
func (m *machine) started() (int, error) {
	b, err := os.ReadFile(m.console)
	return bytes.Count(b, []byte(bootedBy)), err
}

// Printed says how often the host's console has a text.
func (h *Host) Printed(text string) (int, error) {
	b, err := os.ReadFile(filepath.Join(h.lab.Logs(), h.Name+".console"))
	return strings.Count(string(b), text), err
}

// followReboots is FollowReboots of a machine, which reboots by itself.
func (h *Host) followReboots(ctx context.Context, times int, each func(boot int) error) error {
	m := h.machine
	for n := range times {
		for {
			started, err := m.started()
			if err != nil {
				return err
			}
			if started > m.boots {
				break
			}
			select {
			case <-h.ended:
				return fmt.Errorf("%s did not reboot, but ended: %s", h.Name, h.process.ProcessState)
			case <-ctx.Done():
				return fmt.Errorf("%s has rebooted %d times, want %d: %w", h.Name, n, times, context.Cause(ctx))
			case <-time.After(100 * time.Millisecond):
			}
		}
		m.boots++
		if each != nil {
			if err := each(n); err != nil {
				return err
			}
		}
	}
	return h.untilBooted(ctx)
}
