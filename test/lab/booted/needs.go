//go:build linux

package booted

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotHere says that hosts can't be booted on this machine, and why.
var ErrNotHere = errors.New("no hosts can be booted here")

// needed are the programs used, with the Debian packages that have them; machines have
// whether only machines need it.
var needed = []struct {
	program, from string
	machines      bool
}{
	{"debootstrap", "debootstrap", false},
	{"systemd-nspawn", "systemd-container", false},
	{"ip", "iproute2", false},
	{"nsenter", "util-linux", false},
	{"unshare", "util-linux", false},
	{"setpriv", "util-linux", false},
	{"mount", "mount", false},
	{"mkfs.ext4", "e2fsprogs", false},
	{emulator, "qemu-system-x86", true},
	{"sfdisk", "fdisk", true},
	{"mkfs.vfat", "dosfstools", true},
	{"mcopy", "mtools", true},
}

// Prepare checks that hosts can be booted here, with their disks in dir, and
// installs what is missing where apt-get is there. It wraps ErrNotHere where it
// can't be helped. After it, a host that does not boot is a failure.
func Prepare(ctx context.Context, dir string, log func(format string, args ...any)) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: booting hosts needs root, for mounts and network namespaces", ErrNotHere)
	}
	if err := install(ctx, log); err != nil {
		return err
	}
	return permitted(ctx, filepath.Dir(dir))
}

// install installs the programs that are missing.
func install(ctx context.Context, log func(format string, args ...any)) error {
	missing := missing()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w: install what has %s (on Debian: %s)", ErrNotHere, strings.Join(missing, ", "), strings.Join(packages(missing), " "))
	}
	log("installing %s", strings.Join(packages(missing), " "))
	for _, args := range [][]string{{"update", "-q"}, append([]string{"install", "-qy", "--no-install-recommends"}, packages(missing)...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: apt-get %s: %w\n%s", ErrNotHere, args[0], err, out)
		}
	}
	return nil
}

// tried is what the kernel must permit: each line has failed in some container
// that is root and no more. It leaves nothing: its mounts and its network are of
// namespaces of its own. $1 is an empty directory.
const tried = `
at() { what=$1; }
trap '[ $? = 0 ] || echo "this machine does not permit $what"' EXIT
at "mounts in a namespace of their own"
mount --make-rprivate /
cd "$1"
mkdir lower upper work root disk
at "an overlay on the disk of $1"
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root
at "ext4 on a loop device"
truncate -s 8M image
mkfs.ext4 -q -F image
mount -o loop image disk
umount disk
at "network namespaces with cables between them"
ip link add fleet-a type veth peer name fleet-b
ip link add fleet-s type bridge
at "control groups"
mkdir /sys/fs/cgroup/fleet-lab-tried
rmdir /sys/fs/cgroup/fleet-lab-tried
`

// permitted tries what hosts are made of, without one.
func permitted(ctx context.Context, parent string) error {
	dir, err := os.MkdirTemp(parent, "fleet-lab-tried-")
	if err != nil {
		return fmt.Errorf("%w: hosts' disks need a directory: %w", ErrNotHere, err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "sh", "-euc", tried, "sh", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: %s (%w)", ErrNotHere, strings.Join(strings.Fields(string(out)), " "), err)
	}
	return nil
}

func missing() []string {
	var names []string
	for _, n := range needed {
		if n.machines && !Machines() {
			continue
		}
		if _, err := exec.LookPath(n.program); err != nil {
			names = append(names, n.program)
		}
	}
	return names
}

func packages(programs []string) []string {
	var names []string
	for _, n := range needed {
		if slices.Contains(programs, n.program) && !slices.Contains(names, n.from) {
			names = append(names, n.from)
		}
	}
	return names
}

// run runs a program to its end; its output is part of the error.
func run(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
