//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/test/bench/setup"
)

// process is a child that this program started and that it ends.
type process struct {
	cmd  *exec.Cmd
	out  *tail
	done chan struct{}
	err  error
}

// tail keeps the last of what a child writes, for errors.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - 8<<10; extra > 0 {
		t.buf = t.buf[extra:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// start runs a program.
func start(ctx context.Context, argv ...string) (*process, error) {
	p := newProcess(ctx, argv...)
	p.cmd.Stdout = p.out
	return p, p.run()
}

func newProcess(ctx context.Context, argv ...string) *process {
	p := &process{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), out: new(tail), done: make(chan struct{})}
	p.cmd.Stderr = p.out
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	// Should this program be killed, its children do not outlive it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p
}

func (p *process) run() error {
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.cmd.Path, err)
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
	}()
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process: politely, then not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// failed explains err by what the process said.
func (p *process) failed(what string, err error) error {
	return fmt.Errorf("%s: %w\n%s", what, err, p.out)
}

// waitListening waits until the process accepts connections at addr.
func (p *process) waitListening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return p.failed("the server ended", errors.Join(p.err))
		case <-ctx.Done():
			return p.failed("waiting for the server", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// memory is what /proc says of a process, in bytes.
type memory struct{ resident, anonymous int64 }

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, fmt.Errorf("measuring memory: %w", err)
	}
	var m memory
	for line := range bytes.Lines(b) {
		name, rest, _ := strings.Cut(string(line), ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "Rss":
			m.resident = kb << 10
		case "Anonymous":
			m.anonymous = kb << 10
		}
	}
	if m.resident == 0 {
		return memory{}, fmt.Errorf("measuring memory: smaps_rollup of process %d says nothing", pid)
	}
	return m, nil
}

// settle waits until the process has been doing next to nothing for two
// seconds, at most for a minute, and returns its memory then.
func settle(ctx context.Context, pid int) (memory, error) {
	const step = 500 * time.Millisecond
	deadline := time.Now().Add(time.Minute)
	for quiet := 0; quiet < 4 && time.Now().Before(deadline); quiet++ {
		before := setup.CPU(pid)
		if err := pause(ctx, step); err != nil {
			return memory{}, err
		}
		if setup.CPU(pid)-before > step/50 {
			quiet = -1
		}
	}
	return memoryOf(pid)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// holder is the process that holds the agents' connections.
type holder struct {
	*process
	in  io.WriteCloser
	out *json.Decoder
}

func startHolder(ctx context.Context, program string, f *fixture, addr string) (*holder, error) {
	p := newProcess(ctx, program, "-setup", f.file, "-hosts", f.hosts, "-connect", addr)
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &holder{process: p, in: in, out: json.NewDecoder(bufio.NewReader(out))}, p.run()
}

func (h *holder) ask(cmd string) (setup.Answer, error) {
	var a setup.Answer
	if _, err := io.WriteString(h.in, cmd+"\n"); err != nil {
		return a, h.failed(cmd, err)
	}
	if err := h.out.Decode(&a); err != nil {
		return a, h.failed(cmd, err)
	}
	return a, nil
}
