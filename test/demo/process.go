package main

import (
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

// process is a program that the demo started and ends by its pid.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs a program with its output in a file.
func (d *demo) start(name, program string, env []string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(d.dir, "logs", name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	p.cmd = exec.Command(filepath.Join(d.bin, program), args...) //nolint:noctx,gosec // Ended by stop; our own program.
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = append(os.Environ(), env...)
	// Its own group: Ctrl-C is for the demo, which ends all in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	return p, nil
}

// kill ends it the hard way, as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop ends it politely, and after five seconds not so.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

// tail is the end of its log, for when something went wrong.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

// ctl runs fleetctl to its end and returns what it printed.
func (d *demo) ctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "fleetctl"), args...) //nolint:gosec // Our own program.
	cmd.Dir = d.repo
	cmd.Env = d.operatorEnv()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("fleetctl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (d *demo) operatorEnv() []string {
	env := []string{"HOME=" + d.dir, "XDG_CONFIG_HOME=" + filepath.Join(d.dir, "config"), "PATH=" + os.Getenv("PATH")}
	return env
}

// errLeft says that cleaning up did not reach everything.
var errLeft = errors.New("still running")

// cleanUp ends everything that the demo started, by pid, and then looks
// whether anything is left. It is the last thing that happens, always.
func (d *demo) cleanUp() error {
	for _, p := range d.agents {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range d.agents {
		p.stop()
	}
	if d.coordinator != nil {
		d.coordinator.stop()
	}
	// A service ends itself when its pid file is gone, one that is just being
	// started as well.
	err := os.RemoveAll(d.dir)
	for range 100 {
		left := d.leftovers()
		if len(left) == 0 {
			return err
		}
		if err != nil {
			// Something still wrote there while it was removed.
			err = os.RemoveAll(d.dir)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%w after ten seconds: pids %v", errLeft, d.leftovers())
}

// leftovers are the processes, other than the demo, whose command line names
// the demo's directory. Only Linux can be asked; elsewhere there are none.
func (d *demo) leftovers() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(cmdline), d.dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// wait asks check twice a second until it says nil, ctx ends, or the bound is
// reached; then it returns check's last answer.
func wait(ctx context.Context, bound time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return context.Canceled
			}
			return fmt.Errorf("not in %s: %w", bound, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
