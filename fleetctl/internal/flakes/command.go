// Package flakes locks, evaluates and builds flakes with the nix program of the
// machine that publishes.
//
// A process of nix takes some 20 ms to start, and an evaluation seconds, so
// each question is asked once for all machines of a release.
package flakes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Sentinels that errors of this package wrap.
var (
	// ErrNoNix is a machine without the nix program.
	ErrNoNix = errors.New("nix is not installed here")
	// ErrOldNix is a nix before minVersion.
	ErrOldNix = errors.New("nix is too old")
	// ErrDirty is a flake with changes that no revision has.
	ErrDirty = errors.New("the flake has changes that are not committed")
	// ErrUnlocked is a flake that can't be named so that it never changes.
	ErrUnlocked = errors.New("the flake cannot be locked")
	// ErrFetch is a flake that isn't there, or can't be read.
	ErrFetch = errors.New("the flake cannot be read")
	// ErrEvaluation is an error in Nix code.
	ErrEvaluation = errors.New("the evaluation failed")
	// ErrNoAttr is an attribute that the flake does not have.
	ErrNoAttr = errors.New("the flake has no such attribute")
	// ErrNoDerivation is an attribute that is nothing to be built.
	ErrNoDerivation = errors.New("the attribute is no derivation")
	// ErrBuild is a build that failed.
	ErrBuild = errors.New("the build failed")
	// ErrOutPath is a build whose out path isn't the evaluated one.
	ErrOutPath = errors.New("the build made another path than the evaluation expected")
	// ErrNotInStore is a store path that this machine's store does not have.
	ErrNotInStore = errors.New("the store does not have the path")
	// ErrTooMuch is output beyond all reason.
	ErrTooMuch = errors.New("nix printed too much")
	// ErrOutput is output in no form that is known.
	ErrOutput = errors.New("nix printed something unexpected")
)

// minVersion is the oldest nix that is supported: major and minor.
var minVersion = [2]int{2, 18}

const (
	// maxOutput bounds what nix may print on standard output: metadata has the
	// whole lock file, results have an entry for each machine.
	maxOutput = 64 << 20
	// maxTail is how much of standard error is kept: its end.
	maxTail = 64 << 10
	// maxLines and maxLine bound what an error repeats of that.
	maxLines, maxLine = 12, 400
	// endGrace is how long nix has to end when it is told to.
	endGrace = 10 * time.Second
)

// Nix runs the nix program.
type Nix struct {
	// Program is its name or path; empty means nix.
	Program string
	// Progress is told each line that nix prints meanwhile, harmless to show;
	// may be nil.
	Progress func(line string)

	ahead map[string]func() *Presumed // by reference; see Ahead
	asked time.Time                   // when that began
	// ending are evaluations that nix has printed, and not ended yet: how they end.
	ending []func() error
}

func (n *Nix) program() string {
	if n.Program == "" {
		return "nix"
	}
	return n.Program
}

// failed is a nix that exited with another code than 0.
type failed struct {
	code int
	// stderr is its end, harmless to show.
	stderr []string
}

func (f *failed) Error() string { return f.message() }

// message is the last error, as nix explains it.
func (f *failed) message() string {
	lines := f.stderr
	for i, line := range slices.Backward(lines) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "error:") && line != "error:" {
			lines = lines[i:]
			break
		}
	}
	if len(lines) > maxLines {
		lines = lines[:maxLines]
	}
	text := strings.TrimPrefix(strings.TrimSpace(strings.Join(lines, "\n")), "error: ")
	if text == "" {
		return "nix exited with code " + strconv.Itoa(f.code)
	}
	return text
}

// has says whether nix printed something.
func (f *failed) has(text string) bool { return strings.Contains(strings.Join(f.stderr, "\n"), text) }

// run runs nix and returns its standard output, at most limit bytes.
func (n *Nix) run(ctx context.Context, limit int, args ...string) ([]byte, error) {
	return n.begin(ctx, limit, nil, args...).wait()
}

// process is a nix that was started.
type process struct {
	// ended is closed when the process has ended, and wait knows how.
	ended chan struct{}
	wait  func() ([]byte, error)
}

// begin runs nix and does not wait for it. Who calls MUST call wait in the end. line,
// which has room for it, gets the first whole line of standard output; nil for nobody.
func (n *Nix) begin(ctx context.Context, limit int, line chan<- []byte, args ...string) *process {
	args = append([]string{"--extra-experimental-features", "nix-command flakes"}, args...)
	cmd := exec.CommandContext(ctx, n.program(), args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	// On SIGTERM nix ends its builds; standard input is not for it.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	p := &process{ended: make(chan struct{})}
	stdout, stderr := &bounded{limit: limit, line: line}, &tail{progress: n.Progress}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Start()
	go func() {
		defer close(p.ended)
		if err == nil {
			err = cmd.Wait()
		}
	}()
	p.wait = func() ([]byte, error) {
		<-p.ended
		return n.judge(ctx, err, stdout, stderr)
	}
	return p
}

// judge says how nix ended.
func (n *Nix) judge(ctx context.Context, err error, stdout *bounded, stderr *tail) ([]byte, error) {
	exit := (*exec.ExitError)(nil)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case stdout.full:
		return nil, ui.WithHint(fmt.Errorf("%w: more than %s", ErrTooMuch, ui.Size(uint64(stdout.limit))), "is the reference the right one?") //nolint:gosec // Limits are constants.
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return nil, ui.WithHint(fmt.Errorf("%w: %w", ErrNoNix, err), "install Nix 2.18 or later, or name the program in FLEET_NIX; bundles need none")
	case errors.As(err, &exit):
		f := &failed{code: exit.ExitCode(), stderr: stderr.lines()}
		if old := n.checkVersion(ctx); old != nil {
			return nil, fmt.Errorf("%w: %w", old, f)
		}
		return nil, f
	case err != nil:
		return nil, fmt.Errorf("running %s: %w", n.program(), err)
	}
	return stdout.Bytes(), nil
}

// checkVersion asks nix for its version. It is asked only where something
// failed or nothing else tells.
func (n *Nix) checkVersion(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, n.program(), "--version").Output()
	if err != nil {
		return nil //nolint:nilerr // What failed before says more.
	}
	return checkVersion(string(out[:min(len(out), maxLine)]))
}

var version = regexp.MustCompile(`(\d{1,6})\.(\d{1,6})`)

// checkVersion reads a version such as "2.26.3" or "nix (Nix) 2.26.3"; one that
// says none is taken to be new.
func checkVersion(text string) error {
	all := version.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return nil
	}
	// The last one: Determinate's has two.
	last := all[len(all)-1]
	major, _ := strconv.Atoi(last[1])
	minor, _ := strconv.Atoi(last[2])
	if major > minVersion[0] || major == minVersion[0] && minor >= minVersion[1] {
		return nil
	}
	return ui.WithHint(fmt.Errorf("%w: %s", ErrOldNix, refusal.Plain(strings.TrimSpace(text))),
		fmt.Sprintf("install Nix %d.%d or later, or name another nix in FLEET_NIX", minVersion[0], minVersion[1]))
}

// bounded keeps what is written, up to limit bytes, and then refuses more.
type bounded struct {
	bytes.Buffer
	limit int
	full  bool
	// line gets what there is when the first line is whole; it has room for it.
	line chan<- []byte
}

// Write fails once the limit is reached, which closes the pipe.
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		b.full = true
		return 0, ErrTooMuch
	}
	n, err := b.Buffer.Write(p)
	if b.line != nil && bytes.IndexByte(p, '\n') >= 0 {
		b.line <- bytes.Clone(b.Bytes())
		b.line = nil
	}
	return n, err
}

// ReadFrom hides the buffer's own, which knows no limit.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// tail keeps the end of what is written, and passes lines on.
type tail struct {
	progress func(string)
	kept     []byte
	line     []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxTail; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	if t.progress == nil {
		return len(p), nil
	}
	for _, c := range p {
		switch {
		case c == '\n' || c == '\r':
			if text := plainLine(string(t.line)); strings.TrimSpace(text) != "" {
				t.progress(strings.TrimSpace(text))
			}
			t.line = t.line[:0]
		case len(t.line) < maxLine:
			t.line = append(t.line, c)
		}
	}
	return len(p), nil
}

// lines are the kept lines, harmless to show.
func (t *tail) lines() []string {
	var out []string
	for line := range strings.SplitSeq(strings.TrimRight(string(t.kept), "\n"), "\n") {
		out = append(out, plainLine(line))
	}
	return out
}

// ansi are the sequences that colour text: without their first byte the rest of
// them would be left.
var ansi = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]`)

func plainLine(s string) string {
	s = refusal.Plain(strings.ToValidUTF8(ansi.ReplaceAllString(s, ""), ""))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}
