package execute

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/driver"
)

// whole runs a step's program once. Where it fails in a part that a host can be without,
// the rest of it is done, and that decides: what says that it is all of the rest has
// ended well, or the step has failed.
func (r *run) whole(step int, x *driver.Exec, late <-chan time.Time) Result {
	program, failed := x, []string(nil)
	for n := 0; ; n++ {
		from := r.log.size()
		res := r.exec(step, program, late)
		if res.Outcome == "" {
			r.degraded = append(r.degraded, failed...)
			return res
		}
		var part *driver.Part
		if res.Outcome == OutcomeExit && res.ExitCode > 0 && len(x.Parts) > 0 && n < maxDegraded {
			part = r.failedIn(from, x.Parts)
		}
		if part == nil {
			if len(failed) > 0 {
				res.Message += ", in the place of what " + strings.Join(failed, ", ") + " kept from being done"
			}
			return res
		}
		what := fmt.Sprintf("%s failed (exit code %d)", part.Name, res.ExitCode)
		if !slices.Contains(failed, what) {
			failed = append(failed, what)
		}
		_, _ = fmt.Fprintf(r.log.file, "fleet runner: %s: the host can be without, and what comes after is done now\n", what)
		rest := *x
		rest.Argv = part.Rest
		program = &rest
	}
}

// failedIn is the part that a program was in when it ended, by what it printed into the
// log from an offset on; nil where it was in none, or that can't be told.
func (r *run) failedIn(from int64, parts []driver.Part) *driver.Part {
	if r.log.trim(); r.log.cut {
		return nil // What it said last is gone.
	}
	log, err := os.Open(filepath.Join(r.dir, fileLog)) //nolint:gosec // Below the agent's own state directory.
	if err != nil {
		return nil
	}
	defer func() { _ = log.Close() }()
	return partOf(io.NewSectionReader(log, from, MaxLogBytes), parts)
}

// maxHeading bounds a line that may be a heading.
const maxHeading = 4 << 10

// partOf is the part whose heading came last, where no line after it ends it.
func partOf(output io.Reader, parts []driver.Part) (in *driver.Part) {
	lines := bufio.NewReaderSize(output, maxHeading)
	for whole := true; ; {
		piece, more, err := lines.ReadLine()
		if err != nil {
			return in
		}
		began := whole
		whole = !more
		if !began || more {
			continue // Longer than any heading.
		}
		line := strings.TrimRight(string(piece), " \t\r")
		if in != nil && slices.Contains(in.Ends, line) {
			in = nil
		}
		if i := slices.IndexFunc(parts, func(p driver.Part) bool { return p.Heading == line }); i >= 0 {
			in = &parts[i]
		}
	}
}
