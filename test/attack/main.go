// Command attack runs the tables of hostile peers, and writes what came of each
// row into docs/measurements.md: the rows say what they found through test
// attributes. Where a row fails, it names the row with its output, and writes
// nothing. Run it from the root of the repository: make attack.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/test/measurements"
)

// tables are where the rows are.
var tables = []string{"./agent/internal/hostile", "./coordinator"}

const usage = `usage: go run ./test/attack

Runs the tables of hostile peers, and writes them to ` + measurements.File + `.
It takes no arguments.
`

func main() {
	if len(os.Args) > 1 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := attack(ctx, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

// attack runs the tables and writes them down; what failed goes to w.
func attack(ctx context.Context, w io.Writer) error {
	args := append([]string{"test", "-json", "-count", "1", "-p", "2", "-timeout", "30m", "-run", "^TestHostile(Coordinator|Host)$"}, tables...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = w
	// go test ends its tests, which end their agents.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("running the tables: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running the tables: %w", err)
	}
	rs, rerr := read(out)
	_, _ = io.Copy(io.Discard, out) // or it never ends
	werr := cmd.Wait()
	failed := rs.report(w)
	switch {
	case rerr != nil:
		return rerr
	case len(failed) > 0:
		return fmt.Errorf("failed: %s; nothing was written", strings.Join(failed, ", "))
	case werr != nil:
		return fmt.Errorf("running the tables: %w: go %s", werr, strings.Join(args, " "))
	}
	return measurements.Write(measurements.File, measurements.Section{
		Name: "attacks", Command: "make attack", Text: markdown(rs.rows(), measurements.Where(ctx)),
	})
}
