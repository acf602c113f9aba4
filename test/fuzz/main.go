// Command fuzz runs the fuzz targets of this module, and of the modules of
// docs/examples, one after the other. With -write it keeps what came of each as
// a row of the section "Fuzzers" of docs/measurements.md, right when it is done:
// the rows of other targets stay, so that long runs can be made in parts. Run it
// from the root of the repository: make fuzz.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/test/measurements"
)

// minimize bounds what go test does to make one input smaller, which it does for
// each that is new: by default a minute, in which it may try no other. With
// five seconds a decoder of JSON had tried eight inputs after a quarter of a
// minute, with so many executions it had tried ten thousand.
const minimize = "64x"

type options struct {
	run      *regexp.Regexp // nil for all
	time     time.Duration
	parallel int
	write    bool
	file     string // of the measurements
	out      io.Writer
}

func main() {
	o := options{file: measurements.File, out: os.Stderr}
	var run string
	flag.StringVar(&run, "run", "", "only the targets that match this expression, such as pkg/pki or 'FuzzTake$'")
	flag.DurationVar(&o.time, "time", 10*time.Second, "for how long each target runs")
	flag.IntVar(&o.parallel, "parallel", 0, "inputs that are tried at once; 0 is one for each processor")
	flag.BoolVar(&o.write, "write", false, "write what came of it to "+measurements.File)
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: go run ./test/fuzz [flags]\n\nRuns the fuzz targets. With -write those go first that %s has nothing of.\n\n", measurements.File)
		flag.PrintDefaults()
	}
	flag.Parse()
	err := usageError(run, &o)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = fuzz(ctx, ".", o)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

// usageError completes the options.
func usageError(run string, o *options) (err error) {
	if run != "" {
		if o.run, err = regexp.Compile(run); err != nil {
			return fmt.Errorf("-run: %w", err)
		}
	}
	switch {
	case flag.NArg() > 0:
		return fmt.Errorf("%q: only flags are taken; targets are chosen with -run", flag.Arg(0))
	case o.time < time.Second:
		return fmt.Errorf("-time %v: give at least a second", o.time)
	case o.parallel < 0:
		return fmt.Errorf("-parallel %d: give a number of inputs, or 0", o.parallel)
	}
	return nil
}

// fuzz runs the targets of the repository at root. A target that fails does not
// keep the others from being run.
func fuzz(ctx context.Context, root string, o options) error {
	all, err := find(ctx, root)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(all), func(t target) bool { return o.run != nil && !o.run.MatchString(t.name()) })
	if len(chosen) == 0 {
		return errors.New("no fuzz target matches; those that there are: " + strings.Join(names(all), ", "))
	}
	if o.write {
		text, err := measurements.Read(o.file, section)
		if err != nil {
			return err //nolint:wrapcheck // It says what was read.
		}
		was, err := parseTable(text)
		if err != nil {
			return err
		}
		byAge(chosen, was)
	}
	// Of before the first row: the file of the measurements must not count, and
	// what is committed meanwhile is not what runs.
	revision := measurements.Revision(ctx)
	var bad []string
	for i, t := range chosen {
		fmt.Fprintf(o.out, "%d of %d: %s, %v\n", i+1, len(chosen), t.name(), o.time)
		res, err := run(ctx, t, o)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted in %s; what ended before that is kept", t.name())
		}
		if err != nil {
			fmt.Fprintf(o.out, "%s: %v\n", t.name(), err)
			bad = append(bad, t.name())
			if !res.finding {
				continue
			}
		}
		fmt.Fprintf(o.out, "%s: %d executions, %d new interesting inputs\n", t.name(), res.execs, res.interesting)
		if !o.write {
			continue
		}
		r := row{
			target: t.name(), seconds: int(res.elapsed.Seconds()), execs: res.execs, interesting: res.interesting, corpus: res.corpus,
			revision: revision, date: time.Now().UTC().Format(time.DateOnly), //nolint:forbidigo // A program of its own: this is the moment.
		}
		if res.finding {
			r.findings = 1 // go test stops at the first one
		}
		if err := keep(o.file, r, all); err != nil {
			return err
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(bad, ", "))
	}
	return nil
}

// run runs one target. The error says what is wrong with it, be it that there is
// a finding.
func run(ctx context.Context, t target, o options) (result, error) {
	args := []string{
		"test", "-run", "^$", "-fuzz", "^" + t.function + "$", "-fuzztime", o.time.String(),
		"-fuzzminimizetime", minimize, "-timeout", "0",
	}
	if o.parallel > 0 {
		args = append(args, "-parallel", strconv.Itoa(o.parallel))
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = t.dir
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test ends its workers
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	res := parseOutput(string(out))
	switch {
	case res.input != "":
		return res, fmt.Errorf("a FINDING: the input is in %s\n%s", filepath.Join(t.dir, res.input), out)
	case res.finding:
		return res, fmt.Errorf("a FINDING, by a seed:\n%s", out)
	case err != nil && !res.outOfTime:
		return res, fmt.Errorf("%w\n%s", err, out)
	case res.execs == 0:
		return res, fmt.Errorf("nothing was executed in %v; give it more time\n%s", o.time, out)
	}
	return res, nil
}
