package probe

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// exInconclusive is EX_TEMPFAIL of sysexits.h.
const exInconclusive = 75

// outputGrace is how long children that a program left behind may hold its
// output open.
const outputGrace = time.Second

func runExec(ctx context.Context, p fleet.Probe, env Env) (fleet.Verdict, string) {
	if len(p.Argv) == 0 {
		return fleet.VerdictFail, "the probe names no program"
	}
	program := p.Argv[0]
	if !filepath.IsAbs(program) {
		if env.Path == "" || !filepath.IsLocal(program) {
			return fleet.VerdictFail, fmt.Sprintf("program %q is not in the bundle; use an absolute path or one inside", program)
		}
		program = filepath.Join(env.Path, program)
	}
	code, output, err := command(ctx, env, program, p.Argv[1:]...)
	switch {
	case err != nil:
		return fleet.VerdictFail, err.Error()
	case code == 0:
		return fleet.VerdictPass, output
	case code == exInconclusive:
		return fleet.VerdictInconclusive, withOutput(exitText(code), output)
	}
	return fleet.VerdictFail, withOutput(exitText(code), output)
}

// withOutput adds what a program printed, if it did.
func withOutput(how, output string) string {
	if output = strings.TrimSpace(output); output == "" {
		return how
	}
	return how + ": " + output
}

func exitText(code int) string {
	if code < 0 {
		return "ended by a signal"
	}
	return fmt.Sprintf("exit code %d", code)
}

// command runs a program in a process group of its own, which is killed when
// ctx ends. The code is -1 where a signal ended it; the error is about
// programs that could not be started.
func command(ctx context.Context, env Env, program string, args ...string) (code int, output string, err error) {
	out := &tail{}
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // Programs come from signed documents.
	cmd.Env = env.Environ
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would hand over the agent's own
	}
	cmd.Dir = env.Path
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if env.User != "" {
		if cmd.SysProcAttr.Credential, err = execute.Credential(env.User); err != nil {
			return 0, "", fmt.Errorf("starting %s: %w", program, err)
		}
		if cmd.SysProcAttr.Credential != nil && cmd.Err == nil {
			execute.AsUser(cmd)
		}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputGrace
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		// Something of the group still holds the output, so the group is still
		// the probe's.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if cmd.ProcessState == nil {
		return 0, "", fmt.Errorf("starting %s: %w", program, err)
	}
	return cmd.ProcessState.ExitCode(), string(out.last), nil
}

// tail keeps the last bytes of a program's output.
type tail struct{ last []byte }

func (t *tail) Write(b []byte) (int, error) {
	n := len(b)
	t.last = append(t.last, b[max(0, n-2*maxDetailBytes):]...)
	if over := len(t.last) - 2*maxDetailBytes; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return n, nil
}
