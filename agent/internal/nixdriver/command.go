package nixdriver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
)

const (
	// maxDiffBytes, maxOutBytes bound what nix may print.
	maxDiffBytes = 4 << 20
	maxOutBytes  = 64 << 10
	// maxLine bounds one line of what nix says, keptLines how many are kept.
	maxLine   = 1 << 10
	keptLines = 200
	// killGrace is how long nix has to end its builders.
	killGrace = 10 * time.Second
)

// errOutput says that nix printed more than anything sensible has.
var errOutput = errors.New("nix printed too much")

// failure is a nix that ended badly.
type failure struct {
	// command is what nix was to do.
	command string
	// code is its exit code; -1 where a signal ended it.
	code int
	// lines are the last ones that it said, without control characters.
	lines []string
}

// Error says what nix said last.
func (f *failure) Error() string {
	how := fmt.Sprintf("nix %s ended with exit code %d", f.command, f.code)
	if f.code < 0 {
		how = fmt.Sprintf("nix %s was ended by a signal", f.command)
	}
	if said := f.said(); said != "" {
		how += ": " + said
	}
	return how
}

// run runs nix and returns what it printed, at most most bytes. said is called
// with each line of its standard error; nil for nobody. Errors: a failure, the
// context's cause, or that nix can't be started.
func (b *base) run(ctx context.Context, said func(string), most int, args ...string) ([]byte, error) {
	program, err := b.nix()
	if err != nil {
		return nil, err
	}
	return b.runProgram(ctx, program, said, most, args...)
}

func (b *base) runProgram(ctx context.Context, program string, said func(string), most int, args ...string) ([]byte, error) {
	return b.runCommand(ctx, contain.Program{Argv: append([]string{program}, args...), Env: b.environ()}, said, most)
}

// runCommand runs a command of nix, which has its environment already.
func (b *base) runCommand(ctx context.Context, p contain.Program, said func(string), most int) ([]byte, error) {
	args := p.Argv[1:]
	out := &limited{most: most}
	lines := &lineWriter{said: said}
	p.Stdout, p.Stderr = out, lines
	// Told, nix ends its builders, which are not of its group.
	p.Told, p.Held = killGrace, killGrace
	err := contain.Run(ctx, p)
	lines.finish()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	command := args[0]
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") && command == "store" {
		command += " " + args[1]
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return out.kept, &failure{command: command, code: exit.ExitCode(), lines: lines.kept}
	case err != nil:
		return nil, fmt.Errorf("running nix %s: %w", command, err)
	case out.over:
		return nil, fmt.Errorf("running nix %s: %w: more than %d bytes", command, errOutput, most)
	}
	return out.kept, nil
}

// rootHome is the home of a system service that was given none.
const rootHome = "/root"

// environ is the agent's own, with what the drivers need switched on. Nix's
// configuration stays the host's.
func (b *base) environ() []string {
	config := "extra-experimental-features = nix-command flakes"
	if own := os.Getenv("NIX_CONFIG"); own != "" {
		config = own + "\n" + config
	}
	env := append(os.Environ(), "PATH="+b.config.Path, "NIX_CONFIG="+config, "NO_COLOR=1")
	if os.Getenv("HOME") == "" {
		// A system service has none; nix and git look for their caches there.
		env = append(env, "HOME="+rootHome)
	}
	return env
}

// limited keeps the first bytes and says whether there were more.
type limited struct {
	kept []byte
	most int
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if room := l.most - len(l.kept); n > room {
		l.over = true
		p = p[:room]
	}
	l.kept = append(l.kept, p...)
	return n, nil
}

// lineWriter splits into lines, cleaned and bounded, and keeps the last ones.
type lineWriter struct {
	said func(string)
	kept []string
	part []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		if room := maxLine - len(w.part); room > 0 {
			w.part = append(w.part, line[:min(room, len(line))]...)
		}
		if ended {
			w.finish()
		}
		p = rest
	}
	return n, nil
}

// finish ends a line.
func (w *lineWriter) finish() {
	line := clean(string(w.part))
	w.part = w.part[:0]
	if line == "" {
		return
	}
	if len(w.kept) == keptLines {
		w.kept = append(w.kept[:0], w.kept[1:]...)
	}
	w.kept = append(w.kept, line)
	if w.said != nil {
		w.said(line)
	}
}

// clean takes escape sequences and control characters out of outside text, and
// blanks at its ends.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	var out strings.Builder
	for i := 0; i < len(s); {
		if s[i] == 0x1b {
			i = escapeEnd(s, i)
			continue
		}
		r := rune(s[i])
		size := 1
		if r >= 0x80 {
			for size < 4 && i+size < len(s) && s[i+size]&0xc0 == 0x80 {
				size++
			}
			r = []rune(s[i : i+size])[0]
		}
		switch {
		case r == '\t':
			out.WriteByte(' ')
		case !unicode.IsControl(r):
			out.WriteString(s[i : i+size])
		}
		i += size
	}
	return strings.TrimSpace(out.String())
}

// escapeEnd is where an escape sequence that begins at i ends: ESC [ … letter,
// or ESC and one more.
func escapeEnd(s string, i int) int {
	i++
	if i >= len(s) {
		return i
	}
	if s[i] != '[' {
		return i + 1
	}
	for i++; i < len(s); i++ {
		if s[i] >= 0x40 && s[i] <= 0x7e {
			return i + 1
		}
	}
	return i
}
