package deadman

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Start starts the process that runs Main with a directory, so that it outlives
// the one that calls. log is a file for what it prints. Where it is ahead of time,
// Start need not wait until the process runs, nor say why it does not.
type Start func(ctx context.Context, dir, log string, ahead bool) error

// Children starts switches as processes in sessions of their own, for hosts
// without a service manager. Safe for concurrent use.
type Children struct {
	// Command calls Main with the argument appended to it; an absolute path first.
	Command []string

	mu   sync.Mutex
	pids []int
}

// Start is a Start.
func (c *Children) Start(_ context.Context, dir, log string, _ bool) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("starting a process: %w", err)
	}
	defer func() { _ = null.Close() }()
	// Not to be read, and anew each time: of the last switch, not of all.
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return fmt.Errorf("starting a process: %w", err)
	}
	defer func() { _ = out.Close() }()
	argv := append(slices.Clone(c.Command), dir)
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{null, out, out}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("starting a process: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pids = append(c.pids, p.Pid)
	c.reap()
	// It is reaped by its number: it outlives contexts.
	if err := p.Release(); err != nil {
		return fmt.Errorf("starting a process: %w", err)
	}
	return nil
}

// Reap collects those that ended, and waits a moment for the ones that end just
// now.
func (c *Children) Reap(ctx context.Context) {
	for range 50 {
		c.mu.Lock()
		c.reap()
		left := len(c.pids)
		c.mu.Unlock()
		if left == 0 || ctx.Err() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *Children) reap() {
	c.pids = slices.DeleteFunc(c.pids, func(pid int) bool {
		got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		return got == pid || err == syscall.ECHILD //nolint:errorlint // As the system call returns it.
	})
}
