//go:build linux

// Command crash kills the real programs at every crash point that they meet in
// the life of a fleet, once and twice in a row, starts them again, and checks
// that the fleet converges, that nothing was activated twice, that last-good is
// there, and that nothing that was acknowledged is lost. With -write its table is
// a section of docs/measurements.md. Run it from the root of the repository:
// make crash.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"

	"github.com/cameronraysmith/fleet/test/measurements"
)

type options struct {
	programs, dir, run string
	resume             string
	workers            int
	first, write       bool
	power              bool
}

func main() {
	var o options
	flag.StringVar(&o.programs, "bin", "", "`directory` with the programs, built with -tags crashpoints, and the example plugin (default: build them)")
	flag.StringVar(&o.dir, "dir", "", "`directory` to work in; it is kept (default: a temporary one, kept only with violations)")
	flag.StringVar(&o.run, "run", "", "try only kills that match this `expression`: STAGE: PROCESS/POINT@WHAT#N")
	flag.IntVar(&o.workers, "workers", 3*runtime.NumCPU(), "`number` of fleets at a time: most of the time they wait")
	flag.BoolVar(&o.first, "first", false, "try only the first time that a program meets a point")
	flag.BoolVar(&o.power, "power", false, "cut the power of the whole machine's disk instead; Linux, root")
	flag.StringVar(&o.resume, "resume", "", "`file` that keeps what was tried: a run that is interrupted goes on there, with programs of the same revision")
	flag.BoolVar(&o.write, "write", false, "write the table to "+measurements.File)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := crash(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

// errViolations says that what must hold after a crash did not.
var errViolations = errors.New("there are violations")

func crash(ctx context.Context, o options) error {
	if o.write && o.run != "" {
		return errors.New("a table of what -run picked would be taken for the whole: leave out -run or -write")
	}
	only, err := regexp.Compile(o.run)
	if err != nil {
		return err
	}
	dir := o.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "fleet-crash-"); err != nil {
			return err
		}
	} else if err = os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if o.programs == "" {
		o.programs = filepath.Join(dir, "bin")
		if err := build(ctx, ".", o.programs); err != nil {
			return err
		}
	}
	if o.programs, err = filepath.Abs(o.programs); err != nil {
		return err
	}
	var l *ledger
	if o.resume != "" {
		if l, err = openLedger(o.resume, head{measurements.Revision(ctx), o.power, o.first}); err != nil {
			return err
		}
		if n := len(l.before); n > 0 {
			fmt.Printf("goes on after %d\n", n)
		}
	}
	m := matrix{
		ledger:   l,
		programs: o.programs, dir: dir, workers: o.workers,
		first: o.first, power: o.power,
		pick: func(r row) bool { return only.MatchString(r.String()) },
		progress: func(done, all int, out outcome) {
			for i, err := range []error{out.once, out.twice} {
				if violation(err) && ctx.Err() == nil { // Not what was under way when it was interrupted.
					fmt.Printf("VIOLATION, killed %d times: %s: %v\n", i+1, out.row, err)
				}
			}
			if done%50 == 0 || done == all {
				fmt.Printf("%d of %d\n", done, all)
			}
		},
	}
	all, outcomes, err := m.run(ctx)
	if err := l.close(); err != nil {
		return fmt.Errorf("%s does not have all that was tried: %w", o.resume, err)
	}
	if err != nil {
		return fmt.Errorf("%w (see %s)", err, dir)
	}
	t := tableOf(all, outcomes)
	t.first, t.power = o.first, o.power
	fmt.Print(t.summary())
	if missing := t.neverHit(); len(missing) > 0 {
		return fmt.Errorf("points that no stage meets: %s", strings.Join(missing, ", "))
	}
	if t.violations > 0 {
		return fmt.Errorf("%w: see %s", errViolations, dir)
	}
	if o.dir == "" {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if o.write {
		name, flags := "crash", "-write"
		if o.first {
			flags = "-first " + flags
		}
		if o.power {
			name, flags = "power", "-power "+flags
		}
		command := "make crash CRASHFLAGS='" + flags + "'"
		if o.power && o.first {
			command = "make power CRASHFLAGS=-write"
		}
		return measurements.Write(measurements.File, measurements.Section{Name: name, Command: command, Text: t.markdown(measurements.Where(ctx))})
	}
	return nil
}

// examplePlugin is a module under docs/examples, and the name of its program.
const examplePlugin = "probe-certificate"

// build builds the programs with their crash points, and the example plugin; root
// is the module's.
func build(ctx context.Context, root, to string) error {
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "grpcnotrace,nethttpomithttp2,crashpoints", "-trimpath", "-o", to+string(filepath.Separator),
		"./cmd/fleet-agent", "./cmd/fleet-coordinator", "./cmd/fleetctl")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	cmd = exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(to, examplePlugin), ".")
	cmd.Dir, cmd.Env = filepath.Join(root, "docs", "examples", examplePlugin), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the example plugin: %w\n%s", err, out)
	}
	return nil
}
