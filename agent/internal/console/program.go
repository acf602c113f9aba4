package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/refusal"
)

// program is one that is run: absolute path first, no shell.
type program struct {
	argv []string
	env  []string
	// uid is the user that it runs as, in no group of theirs; 0 for the agent's own.
	uid uint32
}

// noGroup is the group of programs that run as somebody: what they need is theirs by their
// number alone.
const noGroup = 65534

// runner runs a program and returns what it printed, at most maxOutput bytes of it.
type runner func(ctx context.Context, p program) ([]byte, error)

// outputGrace is how long what a program left behind may hold its output open.
const outputGrace = 500 * time.Millisecond

// runProgram is the runner of this system. The program is in a group of its own, which is
// killed when ctx ends.
func runProgram(ctx context.Context, p program) ([]byte, error) {
	var out bounded
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Dir, cmd.Env = "/", append([]string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}, p.env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.uid != 0 && int64(p.uid) != int64(os.Geteuid()) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: p.uid, Gid: noGroup}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputGrace
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err = nil // It said what it had to say.
	}
	if err != nil {
		return nil, fmt.Errorf("running %s: %w%s", p.argv[0], err, firstLine(out.kept.Bytes()))
	}
	return out.kept.Bytes(), nil
}

// firstLine is what a program said of its failure, for people.
func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b[:min(len(b), 300)])), "\n")
	if line == "" {
		return ""
	}
	return ": " + refusal.Plain(line)
}

// bounded keeps the first maxOutput bytes. It must not be read into in another way, as a
// bytes.Buffer can.
type bounded struct{ kept bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), maxOutput-b.kept.Len())])
	return len(p), nil
}
