package probe

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
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
	case errors.Is(err, contain.ErrNoUnit), errors.Is(err, contain.ErrStuck):
		// That is the host's, or its user's.
		return fleet.VerdictInconclusive, err.Error()
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

// command runs a program that ends with ctx. The code is -1 where a signal ended it; the
// error is about programs that could not be started.
func command(ctx context.Context, env Env, program string, args ...string) (code int, output string, err error) {
	out := &tail{}
	p := contain.Program{
		Name: "probe", Argv: append([]string{program}, args...), Env: env.Environ, Dir: env.Path,
		Stdout: out, Stderr: out, Held: outputGrace,
	}
	if env.User != "" {
		if p.As, err = contain.Credential(env.User); err != nil {
			return 0, "", fmt.Errorf("starting %s: %w", program, err)
		}
	}
	err = contain.Run(ctx, p)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, string(out.last), nil
	case errors.As(err, &exit):
		return exit.ExitCode(), string(out.last), nil
	}
	return 0, "", fmt.Errorf("starting %s: %w", program, err)
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
