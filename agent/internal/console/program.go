package console

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
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

// runProgram is the runner of this system.
func runProgram(ctx context.Context, p program) ([]byte, error) {
	var out bounded
	c := contain.Program{
		Name: "tell", Argv: p.argv, Env: append([]string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}, p.env...),
		Stdout: &out, Stderr: &out, Held: outputGrace,
	}
	if p.uid != 0 && int64(p.uid) != int64(os.Geteuid()) {
		c.As = &syscall.Credential{Uid: p.uid, Gid: noGroup}
	}
	if err := contain.Run(ctx, c); err != nil {
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
