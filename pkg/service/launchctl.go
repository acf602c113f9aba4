package service

import (
	"context"
	"strings"
)

const (
	// launchctl is where macOS has it, on a volume that nobody writes to: root runs it, and
	// PATH may have directories of a user before that one, such as Homebrew's.
	launchctl = "/bin/launchctl"
	// noSuchService is launchctl's exit code for a label that isn't loaded.
	noSuchService = 113
	// inProgress is that of a bootout that has begun: it is being unloaded.
	inProgress = 36
)

// Launchctl is launchd's own program, for jobs of the domain "system" by their labels.
// Calls end with ctx; nothing is tried again. Safe for concurrent use.
type Launchctl struct {
	// Run runs a program; nil for the real one.
	Run Runner
}

func (l Launchctl) do(ctx context.Context, args ...string) (string, error) {
	run := l.Run
	if run == nil {
		run = execute
	}
	return run(ctx, append([]string{launchctl}, args...)...)
}

// target is what launchctl calls a job of the system.
func target(label string) string { return "system/" + label }

// Bootstrap loads a job from its property list, an absolute path, and starts it where
// that says RunAtLoad. It returns before the job is up.
func (l Launchctl) Bootstrap(ctx context.Context, file string) error {
	_, err := l.do(ctx, "bootstrap", "system", file)
	return err
}

// Bootout unloads a job, and ends it where it runs. One that is gone, or going, is no
// error.
func (l Launchctl) Bootout(ctx context.Context, label string) error {
	_, err := l.do(ctx, "bootout", target(label))
	if code := exitCode(err); code == noSuchService || code == inProgress {
		return nil
	}
	return err
}

// Kickstart starts a loaded job that does not run; anew says also one that does.
func (l Launchctl) Kickstart(ctx context.Context, label string, anew bool) error {
	args := []string{"kickstart", target(label)}
	if anew {
		args = []string{"kickstart", "-k", target(label)}
	}
	_, err := l.do(ctx, args...)
	return err
}

// Enable undoes that somebody disabled a job, which would not start at boot.
func (l Launchctl) Enable(ctx context.Context, label string) error {
	_, err := l.do(ctx, "enable", target(label))
	return err
}

// Print returns what launchd says of a job itself, by launchctl's own names ("state",
// "pid", "last exit code"); nil where it is not loaded.
func (l Launchctl) Print(ctx context.Context, label string) (map[string]string, error) {
	out, err := l.do(ctx, "print", target(label))
	if exitCode(err) == noSuchService {
		return nil, nil //nolint:nilnil // See above.
	}
	if err != nil {
		return nil, err
	}
	v := map[string]string{}
	for line := range strings.Lines(out) {
		// One tab: deeper is about endpoints and the like.
		if rest, ok := strings.CutPrefix(line, "\t"); ok && !strings.HasPrefix(rest, "\t") {
			if name, value, ok := strings.Cut(strings.TrimSpace(rest), " = "); ok {
				v[name] = value
			}
		}
	}
	return v, nil
}
