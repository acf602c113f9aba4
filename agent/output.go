package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

const (
	// outputTail is how much of a log's end is looked at.
	outputTail = 16 << 10
	// outputLine bounds what is said of it, in bytes.
	outputLine = 200
)

// outcome is how a run ended, with the last that it printed where it failed, so
// that nobody has to log in to see it. That travels to the coordinator, and the
// log doesn't: what could be part of a secret stays in the log.
func (w *worker) outcome(id string, r execute.Result) (reconcile.Run, string) {
	run, detail := outcome(r)
	if r.Outcome != execute.OutcomeExit {
		return run, detail
	}
	line, err := lastLine(w.a.executor.Log(id))
	if err != nil {
		w.log.Warn("reading a run's log failed", "run", id, "error", err)
	}
	if line == "" {
		return run, detail
	}
	said := cut(refusal.Plain(strings.ToValidUTF8(line, "?")), outputLine)
	shows, err := w.a.showsSecret(line, refusal.Plain(line))
	if err != nil {
		w.log.Warn("whether a run printed a secret is not known", "run", id, "error", err)
	}
	if shows || err != nil {
		return run, detail + "; what it printed is in fleet-agent logs only: it may be secret"
	}
	return run, detail + ": " + said
}

// showsSecret says whether any of the texts holds part of a secret of any
// profile.
func (a *Agent) showsSecret(texts ...string) (bool, error) {
	for _, w := range a.sorted() {
		for _, text := range texts {
			if shows, err := secrets.Shows(a.config.secretsRoot(w.profile), text); shows || err != nil {
				return true, err //nolint:wrapcheck // It says what failed.
			}
		}
	}
	return false, nil
}

// lastLine is the last line of a file that is not empty.
func lastLine(path string) (_ string, err error) {
	f, err := os.Open(path) //nolint:gosec // A log of the agent's own.
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fi, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading log: %w", err)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, fi.Size()-outputTail), outputTail))
	if err != nil {
		return "", fmt.Errorf("reading log: %w", err)
	}
	lines := strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' })
	for _, line := range slices.Backward(lines) {
		if line = strings.TrimSpace(line); line != "" {
			return line, nil
		}
	}
	return "", nil
}

// cut bounds a text, by whole characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}
