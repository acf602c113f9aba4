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
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	bootTimeout = 120 * time.Second
	// stopTimeout bounds an orderly shutdown.
	stopTimeout = 30 * time.Second
	// maxOutput of a command in a host, in bytes.
	maxOutput = 4 << 20
)

// Spec describes a host.
type Spec struct {
	// Name is short: it is part of an interface's name.
	Name string
	// Kept are directories of the host, absolute, that are on a disk of its own
	// and not on its overlay.
	Kept []string
	// Shared are directories of this machine that the host has too.
	Shared []Share
	// PowerLoss puts Kept on a disk whose power can be cut.
	PowerLoss bool
}

// Share is a directory of this machine within a host.
type Share struct {
	From, At string
	ReadOnly bool
}

// Programs is a directory of hosts that commands run in them find programs in.
const Programs = "/opt/fleet"

// Host is a systemd host.
type Host struct {
	Name    string
	Address string // IPv6, without brackets
	// Disk is what Kept is on, nil without PowerLoss.
	Disk *Disk

	lab    *Lab
	dir    string
	kept   map[string]string // where directories of Spec.Kept are on this machine
	binds  []string
	shared []Share
	// process is systemd-nspawn or, where the host is a machine, the emulator.
	process *exec.Cmd
	ended   chan struct{}
	init    int // pid of a container's init as this machine sees it
	machine *machine
}

// AddHost makes a host and does not boot it.
func (l *Lab) AddHost(ctx context.Context, s Spec) (*Host, error) {
	h := &Host{
		Name: s.Name, Address: network + strconv.Itoa(len(l.hosts)+2), lab: l, dir: filepath.Join(l.options.Dir, "hosts", s.Name),
		kept: map[string]string{},
	}
	l.hosts = append(l.hosts, h)
	if err := h.make(ctx, s); err != nil {
		return nil, fmt.Errorf("making host %s: %w", s.Name, err)
	}
	return h, nil
}

func (h *Host) make(ctx context.Context, s Spec) error {
	for _, d := range []string{"upper", "work", "kept"} {
		if err := os.MkdirAll(filepath.Join(h.dir, d), 0o755); err != nil {
			return err
		}
	}
	kept := filepath.Join(h.dir, "kept")
	if s.PowerLoss {
		var err error
		if h.Disk, err = h.lab.newDisk(ctx, kept); err != nil {
			return err
		}
	}
	if err := h.lab.mount(ctx, h.Path("/"), "-t", "overlay", "overlay", "-o",
		fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", h.lab.options.Base, h.dir, h.dir)); err != nil {
		return err
	}
	for _, d := range s.Kept {
		from := filepath.Join(kept, strings.ReplaceAll(strings.Trim(d, "/"), "/", "-"))
		if err := errors.Join(os.MkdirAll(from, 0o755), os.MkdirAll(h.Path(d), 0o755)); err != nil {
			return err
		}
		h.binds = append(h.binds, "--bind="+from+":"+d)
		h.kept[d] = from
	}
	h.shared = s.Shared
	for _, d := range s.Shared {
		if err := os.MkdirAll(h.Path(d.At), 0o755); err != nil {
			return err
		}
		flag := "--bind="
		if d.ReadOnly {
			flag = "--bind-ro="
		}
		h.binds = append(h.binds, flag+d.From+":"+d.At)
	}
	// An empty one is made anew at boot; each host needs one of its own.
	if err := os.WriteFile(h.Path("/etc/machine-id"), nil, 0o444); err != nil {
		return err
	}
	return h.connect(ctx)
}

// Path is where a file of the host's overlay is on this machine. What is in
// Kept or Shared is elsewhere.
func (h *Host) Path(file string) string { return filepath.Join(h.dir, "root", file) }

// KeptPath is where a file below a directory of Kept is on this machine; "" where
// it is below none.
func (h *Host) KeptPath(file string) string {
	for dir, at := range h.kept {
		if below, ok := strings.CutPrefix(file, dir+"/"); ok {
			return filepath.Join(at, below)
		}
	}
	return ""
}

// Write writes a file of the host's overlay, also while it is down.
func (h *Host) Write(file, text string, perm os.FileMode) error {
	path := h.Path(file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, []byte(text), perm), os.Chmod(path, perm))
}

// Boot starts the host and waits until systemd has started all units.
func (h *Host) Boot(ctx context.Context) error {
	if err := h.start(); err != nil {
		return fmt.Errorf("booting %s: %w", h.Name, err)
	}
	return h.untilBooted(ctx)
}

// untilBooted waits until systemd has started all units of a host that was started.
func (h *Host) untilBooted(ctx context.Context) error {
	within := bootTimeout
	if h.machine != nil {
		within = machineBootTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	state := ""
	for {
		if h.machine == nil && h.init == 0 {
			h.init = initOf(h.process.Process.Pid)
		} else {
			out, err := h.Run(ctx, "systemctl", "is-system-running", "--wait")
			state = strings.TrimSpace(out)
			if err == nil || state == "degraded" {
				return nil
			}
		}
		select {
		case <-h.ended:
			return fmt.Errorf("booting %s: it ended: %s", h.Name, h.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("booting %s: systemd is %q: %w", h.Name, state, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (h *Host) start() error {
	if h.process != nil {
		return errors.New("it is running")
	}
	if h.machine != nil {
		return h.startMachine()
	}
	console, err := os.OpenFile(filepath.Join(h.lab.Logs(), h.Name+".console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	group, err := h.group()
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }()
	argv := append([]string{
		"-q", "-D", h.Path("/"), "--machine=" + prefix + h.Name, "--network-namespace-path=/run/netns/" + prefix + h.Name,
		"--capability=CAP_NET_ADMIN", // Of its own network: a generation may break that.
		"--register=no", "--keep-unit", "--console=pipe", "-b",
	}, h.binds...)
	// The host outlives contexts: Kill and PowerOff end it.
	cmd := exec.Command("systemd-nspawn", argv...) //nolint:noctx // See above.
	cmd.Stdout, cmd.Stderr = console, console
	// A session of its own, because systemd-nspawn wants the terminal. Should
	// this program be killed, systemd-nspawn is asked to shut the host down.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	// As hosts have them, also where this machine does not.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	if err := cmd.Start(); err != nil {
		return err
	}
	h.process, h.ended, h.init = cmd, make(chan struct{}), 0
	go func() {
		defer close(h.ended)
		_ = cmd.Wait()
	}()
	return nil
}

// initOf finds the child of systemd-nspawn that is process 1 of the host.
func initOf(nspawn int) int {
	for pid, parent := range inits() {
		if parent == nspawn {
			return pid
		}
	}
	return 0
}

// inits are the processes that are number 1 in a namespace of their own, with
// their parents.
func inits() map[int]int {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return nil
	}
	found := map[int]int{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		parent, inner := 0, ""
		for line := range strings.Lines(string(b)) {
			name, rest, _ := strings.Cut(line, ":")
			switch name {
			case "PPid":
				parent, _ = strconv.Atoi(strings.TrimSpace(rest))
			case "NSpid":
				if f := strings.Fields(rest); len(f) > 1 {
					inner = f[len(f)-1]
				}
			}
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && inner == "1" {
			found[pid] = parent
		}
	}
	return found
}

// Kill ends the host at once, as a crash of its kernel would: nothing is
// stopped, and what was written stays written. Nothing where it is down.
func (h *Host) Kill() error {
	if h.process == nil {
		return nil
	}
	if h.machine != nil {
		return h.endProcess()
	}
	if h.init == 0 {
		h.init = initOf(h.process.Process.Pid)
	}
	// Stopped first, so that nobody acts on the end of another: a process 1 that
	// dies closes its sockets before the kernel ends the others, and to those a
	// systemd that does not answer would be one more thing that happened.
	if err := h.stopAll(); err != nil {
		return fmt.Errorf("killing %s: %w", h.Name, err)
	}
	// Then systemd-nspawn, which else would tidy up, and without which the host
	// goes on; then the host's first process, which takes all others with it.
	init := h.init
	if err := h.endProcess(); err != nil {
		return err
	}
	if init == 0 {
		return nil
	}
	if err := syscall.Kill(init, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing %s: %w", h.Name, err)
	}
	// It fell to this program, which Open made its reaper, when its parent died.
	for range 6000 {
		pid, err := syscall.Wait4(init, nil, syscall.WNOHANG, nil)
		if pid == init || errors.Is(err, syscall.ECHILD) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("killing %s: its init %d does not end", h.Name, init)
}

// endProcess ends what runs the host, and with it a machine as if its power went.
func (h *Host) endProcess() error {
	if err := h.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", h.Name, err)
	}
	<-h.ended
	h.process, h.init = nil, 0
	return nil
}

// PowerOff shuts the host down in order.
func (h *Host) PowerOff(ctx context.Context) error {
	if _, err := h.Run(ctx, "systemctl", "poweroff", "--no-block"); err != nil {
		return err
	}
	within := stopTimeout
	if h.machine != nil {
		within = machineStopTimeout
	}
	select {
	case <-h.ended:
		h.process, h.init = nil, 0
		return nil
	case <-time.After(within):
		return fmt.Errorf("%s does not shut down in %s", h.Name, within)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rebooted is what systemd-nspawn ends with where its host wants to be booted anew.
const rebooted = 133

// FollowReboots boots a host anew that reboots itself, so often; and waits until the last
// boot is done. Before each boot, counted from 0, each is called, where it is not nil.
func (h *Host) FollowReboots(ctx context.Context, times int, within time.Duration, each func(boot int) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if h.machine != nil {
		return h.followReboots(ctx, times, each)
	}
	for n := range times {
		select {
		case <-h.ended:
		case <-ctx.Done():
			return fmt.Errorf("%s has rebooted %d times, want %d: %w", h.Name, n, times, context.Cause(ctx))
		}
		if code := h.process.ProcessState.ExitCode(); code != rebooted {
			return fmt.Errorf("%s did not reboot, but ended with %d", h.Name, code)
		}
		h.process, h.init = nil, 0
		if each != nil {
			if err := each(n); err != nil {
				return err
			}
		}
		if n == times-1 {
			return h.Boot(ctx)
		}
		if err := h.start(); err != nil {
			return fmt.Errorf("booting %s: %w", h.Name, err)
		}
	}
	return nil
}

// PowerLoss kills the host and takes its disk's power at the same time. The
// disk comes back with what had been synced; the host stays down.
func (h *Host) PowerLoss(ctx context.Context) error {
	if err := h.Disk.Cut(); err != nil {
		return err
	}
	if err := h.Kill(); err != nil {
		return err
	}
	return h.Disk.Replug(ctx)
}

// Run runs a command in the host and returns its output; what it wrote to
// standard error is part of the error.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	return h.Input(ctx, "", argv...)
}

// Shell runs a script in the host with sh -eu.
func (h *Host) Shell(ctx context.Context, script string) (string, error) {
	return h.Run(ctx, "sh", "-euc", script)
}

// Input is Run with a standard input. The command has all capabilities but that
// to set the clock, which would set this machine's.
func (h *Host) Input(ctx context.Context, stdin string, argv ...string) (string, error) {
	if h.machine != nil {
		return h.inputToMachine(ctx, stdin, argv)
	}
	if h.init == 0 {
		return "", fmt.Errorf("%s is down", h.Name)
	}
	full := append([]string{
		"--bounding-set=-sys_time", "--inh-caps=-sys_time", "--",
		"nsenter", "-t", strconv.Itoa(h.init), "-m", "-u", "-i", "-n", "-p", "-C", "--wdns=/", "--",
	}, argv...)
	cmd := exec.CommandContext(ctx, "setpriv", full...)
	cmd.Env = []string{"PATH=" + Programs + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	// nsenter has a child: all of the group is ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	stdout, stderr := &bounded{most: maxOutput}, &bounded{most: maxErrors}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	return stdout.String(), h.commandFailed(argv, stderr.String(), err)
}

// inputToMachine is Input of a machine, whose clock is its own.
func (h *Host) inputToMachine(ctx context.Context, stdin string, argv []string) (string, error) {
	if h.process == nil {
		return "", fmt.Errorf("%s is down", h.Name)
	}
	stdout, stderr, err := command(ctx, h.Address, stdin, argv)
	return stdout, h.commandFailed(argv, stderr, err)
}

// commandFailed says which command failed, and what it wrote; nil for nil.
func (h *Host) commandFailed(argv []string, stderr string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w\n%s", h.Name, clip(strings.Join(argv, " ")), err, strings.TrimSpace(stderr))
}

func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

// bounded keeps the first bytes and drops the rest.
type bounded struct {
	buf  bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.most - b.buf.Len(); room > 0 {
		_, _ = b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *bounded) String() string { return b.buf.String() }

// stopAll stops all processes of the host but its first, at once: kill(2) of -1
// goes through those of the caller's namespace. Nothing where it is ending.
func (h *Host) stopAll() error {
	if h.init == 0 {
		return nil
	}
	// In this program's own namespace it would stop the whole machine.
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", h.init))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ours, err2 := os.Readlink("/proc/self/ns/pid")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if theirs == ours {
		return fmt.Errorf("process %d is in no namespace of its own", h.init)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nsenter", "--target="+strconv.Itoa(h.init), "--pid", "--", "sh", "-c", "kill -STOP -1").CombinedOutput()
	if err != nil && syscall.Kill(h.init, 0) == nil {
		return fmt.Errorf("stopping its processes: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
