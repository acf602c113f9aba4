package contain

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
)

// A user's program has a scope and not a service: it stays a child of this process, with
// its exit code and its output, and systemd, which may be replaced by a newer one or be
// busy, is needed for a moment and never again. The scope is made around a process of
// root's that does nothing, and the program is born into its control group (clone3(2),
// CLONE_INTO_CGROUP): a process that is the user's already, and is moved there later,
// could have left others behind, at the hands of another process of that user's.

// Bounds of a unit. Memory is a share of the machine's, so that the rest of it is root's
// whatever a user's nix evaluates.
const (
	maxTasks    = 4096
	memoryShare = 0.75
)

const (
	// UnitPrefix begins the name of each unit.
	UnitPrefix = "fleet-user-"
	scope      = ".scope"
	// unitWithin bounds how long systemd is asked.
	unitWithin = 10 * time.Second
	// birth has the characters of random names, which end those of units.
	birth, birthLength = "[a-z2-7]", 8
)

// Place is where a host's systemd and its control groups are.
type Place struct {
	Systemd systemd.Address
	// Booted is there where systemd runs the host: sd_booted(3).
	Booted string
	// Groups is where control groups are.
	Groups string
}

var host = Place{Booted: "/run/systemd/system", Groups: "/sys/fs/cgroup"}

// Use has another place be this host's, for tests, until it is restored. Nothing may be
// started meanwhile.
func Use(p Place) (restore func()) {
	before := host
	host = p
	return func() { host = before }
}

// unified says whether control groups are of version 2: cgroups(7).
func unified(dir string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) != nil || fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// Without is why what runs as another user has no unit of its own on this host; empty
// where it has one. It goes by what no user can change.
func Without() string {
	switch _, err := os.Lstat(host.Booted); {
	case os.Geteuid() != 0:
		return "this process is not root"
	case errors.Is(err, fs.ErrNotExist):
		return "systemd does not run this host"
	case !unified(host.Groups):
		return "this host's control groups are of version 1"
	}
	return births()
}

// births says why this kernel starts no program in a control group; empty where it does. It
// is tried in this process's own, where no user has a say.
var births = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	_, path, ok := strings.Cut(string(text), "0::")
	if err != nil || !ok {
		return ""
	}
	group, err := os.Open(filepath.Join("/sys/fs/cgroup", strings.TrimSpace(path)))
	if err != nil {
		return ""
	}
	defer func() { _ = group.Close() }()
	cmd := &exec.Cmd{
		Path: shell, Args: []string{shell, "-c", ":"}, Env: []string{}, Dir: "/",
		SysProcAttr: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())},
	}
	if err := cmd.Run(); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EPERM) {
		return fmt.Sprintf("its kernel starts no program in a control group (Linux 5.7 and later can): %v", err)
	}
	return ""
})

// Unit is what a user's program and all that comes from it runs in. The nil Unit is none.
type Unit struct {
	dir string // of its control group
}

func startIn(ctx context.Context, cmd *exec.Cmd, uid uint32, name string, runs time.Duration) (*Unit, error) {
	u, group, holder, err := makeUnit(ctx, uid, name, runs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoUnit, err)
	}
	defer func() { _ = group.Close() }()
	defer holder.end()
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	// The user may stop what is theirs already and has not begun the program yet: this
	// process would wait for that without end.
	stop := context.AfterFunc(ctx, u.killAll)
	err = cmd.Start()
	stop()
	if err == nil && ctx.Err() != nil {
		u.killAll() // It may have begun just after.
	}
	if err != nil {
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENODEV) {
			// The user's slice is full of processes, or the unit was ended already.
			err = fmt.Errorf("%w: %w", ErrNoUnit, err)
		}
		return nil, err
	}
	return u, nil
}

// makeUnit has systemd make a unit that holds a process of root's alone.
func makeUnit(ctx context.Context, uid uint32, name string, runs time.Duration) (*Unit, *os.File, *holder, error) {
	h, err := hold()
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, unitWithin)
	defer cancel()
	full := ""
	err = host.Systemd.Ask(ctx, func(ctx context.Context, c *systemd.Conn) error {
		// Another name each time: the one before may be there, and its word lost.
		full = UnitPrefix + name + "-" + strings.ToLower(rand.Text()[:birthLength]) + scope
		return c.StartScope(ctx, systemd.Scope{
			Name: full, Description: "what fleet runs as the user " + strconv.FormatUint(uint64(uid), 10),
			Slice: "user-" + strconv.FormatUint(uint64(uid), 10) + ".slice", PID: uint32(h.cmd.Process.Pid), //nolint:gosec // Not negative.
			// Whoever started it ends it: a commit may come to its end first.
			StoppedAfter: systemd.OwnUnit(),
			Tasks:        maxTasks, Memory: memoryShare, Runs: runs,
		})
	})
	var group *os.File
	var u *Unit
	if err == nil {
		u, group, err = groupOf(h.cmd.Process.Pid, full)
	}
	if err != nil {
		h.end()
		return nil, nil, nil, err
	}
	return u, group, h, nil
}

// groupOf opens the control group of a process, which MUST be that of the unit.
func groupOf(pid int, unit string) (*Unit, *os.File, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the unit's control group: %w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the unit's control group: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		// That of version 2: cgroups(7).
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && filepath.Base(path) == unit {
			u := &Unit{dir: filepath.Join(host.Groups, path)}
			group, err := os.Open(u.dir)
			if err != nil {
				return nil, nil, fmt.Errorf("opening the unit's control group: %w", err)
			}
			return u, group, nil
		}
	}
	return nil, nil, fmt.Errorf("the process for %s is in %q", unit, strings.TrimSpace(string(text)))
}

// holder is a process of root's that does nothing until it is ended, or this process is.
type holder struct {
	cmd   *exec.Cmd
	stdin *os.File
}

func hold() (*holder, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer func() { _ = r.Close() }()
	h := &holder{stdin: w, cmd: &exec.Cmd{
		Path: shell, Args: []string{shell, "-c", "read -r _"}, Env: []string{}, Dir: "/", Stdin: r, SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}}
	if err := h.cmd.Start(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return h, nil
}

func (h *holder) end() {
	_ = h.stdin.Close()
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait() // It was killed.
}

// killPause is between two looks whether a unit is empty.
const killPause = 5 * time.Millisecond

// Kill ends all that is in the unit, whatever it does, and says whether it is gone within
// that: a process stays that waits in the kernel for a file system of its user's.
func (u *Unit) Kill(within time.Duration) bool {
	if u == nil {
		return true
	}
	last := time.NewTimer(within)
	defer last.Stop()
	tick := time.NewTicker(killPause)
	defer tick.Stop()
	for {
		u.killAll()
		if u.empty() {
			return true
		}
		select {
		case <-tick.C:
		case <-last.C:
			return false
		}
	}
}

// killAll kills what is in the unit now. The kernel does it at once (5.14 and later), or
// while nothing in there runs, and so nothing is born.
func (u *Unit) killAll() {
	if u.write("cgroup.kill") != nil {
		u.killFrozen()
	}
}

func (u *Unit) killFrozen() {
	_ = u.write("cgroup.freeze") // It may be gone.
	text, _ := os.ReadFile(filepath.Join(u.dir, "cgroup.procs"))
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// write writes 1 to one of the unit's files, which is the kernel's.
func (u *Unit) write(name string) error {
	fd, err := unix.Open(filepath.Join(u.dir, name), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err //nolint:wrapcheck // Only whether it failed matters.
	}
	_, err = unix.Write(fd, []byte("1"))
	return errors.Join(err, unix.Close(fd))
}

func (u *Unit) empty() bool {
	text, err := os.ReadFile(filepath.Join(u.dir, "cgroup.events"))
	if err != nil {
		// systemd takes an empty one away.
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
	}
	return strings.Contains(string(text), "populated 0")
}

// EndNamed ends all units of that name, whoever started them and died, and says how many
// there were. name MUST be one of fleet.IsFileName.
func EndNamed(name string, within time.Duration) (n int) {
	if Without() != "" {
		return 0
	}
	dirs, _ := filepath.Glob(filepath.Join(host.Groups, "user.slice", "user-*.slice", UnitPrefix+name+"-"+strings.Repeat(birth, birthLength)+scope)) // Fails for a bad pattern only.
	for _, dir := range dirs {
		(&Unit{dir: dir}).Kill(within)
	}
	return len(dirs)
}
