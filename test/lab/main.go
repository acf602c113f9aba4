//go:build linux

// Command lab proves on real booted hosts what the programs claim about
// activation, crashes, boots and power loss: systemd hosts in containers of their
// own, and one that becomes a machine with a firmware and a boot loader, with a real
// Nix, the real agent as a unit, and the real coordinator. It needs
// root, and boots nothing that it does not end. Each scenario is a row of a
// table; it ends with 0 only when all that a row says was checked.
// Run it from the root of the repository: make lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/test/lab/booted"
	"github.com/cameronraysmith/fleet/test/measurements"
)

type options struct {
	bin, cache, dir string
	run             string
	list, write     bool
	possible        bool
	bench           bool
	pairs           int
	modules         bool
	logs, json      string
	sit             uint
	shows           bool
}

// runTimeout bounds a whole run.
const runTimeout = 50 * time.Minute

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "`directory` with fleet-agent, fleet-coordinator and fleetctl")
	flag.StringVar(&o.cache, "cache", fallback(os.Getenv("FLEET_LAB_CACHE"), "/var/cache/fleet-lab"), "`directory` that keeps the hosts' root for other runs; also FLEET_LAB_CACHE")
	flag.StringVar(&o.dir, "dir", "/var/tmp/fleet-lab", "`directory` of the hosts while they run, on a disk")
	flag.StringVar(&o.logs, "logs", "/var/tmp/fleet-lab-logs", "`directory` for the hosts' logs of scenarios that fail; emptied at the start")
	flag.StringVar(&o.run, "run", "", "run only scenarios whose names match this `expression`")
	flag.BoolVar(&o.list, "list", false, "list the scenarios, and boot nothing")
	flag.BoolVar(&o.possible, "possible", false, "prepare all that hosts are made of and boot none; where that can't be had here, print why and end with 3")
	flag.StringVar(&o.json, "json", "", "write the results to this `file` too, for programs")
	flag.BoolVar(&o.write, "write", false, "write the results to "+measurements.File)
	flag.BoolVar(&o.bench, "bench", false, "measure the time from a commit to the switch, and run no scenario")
	flag.BoolVar(&o.modules, "modules", false, "write what the modules of packaging/nix come to, to "+evaluatedFile+", and run no scenario")
	flag.IntVar(&o.pairs, "pairs", 15, "pairs of runs that -bench measures")
	flag.UintVar(&o.sit, "sit", 0, "within a host: have the user of that `uid` sit at its screen, until this ends")
	flag.BoolVar(&o.shows, "shows", false, "within a host: be the desktop that shows a session's notifications, and print them")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "lab: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if o.sit != 0 || o.shows {
		if err := inHost(ctx, o); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			os.Exit(1)
		}
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, runTimeout, fmt.Errorf("the lab was not done in %s", runTimeout))
	err := lab(ctx, o)
	interrupted := ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled)
	cancel()
	stop()
	switch {
	case err == nil:
	case interrupted:
		fmt.Fprintln(os.Stderr, "lab: interrupted:", err)
		os.Exit(130)
	case errors.Is(err, booted.ErrNotHere):
		to := os.Stderr
		if o.possible {
			to = os.Stdout // It is the answer.
		}
		fmt.Fprintln(to, err)
		os.Exit(exitNotHere)
	default:
		fmt.Fprintln(os.Stderr, "lab: FAILED:", err)
		os.Exit(1)
	}
}

// inHost is what this program does within a host.
func inHost(ctx context.Context, o options) error {
	if o.shows {
		return showNotifications(ctx)
	}
	return sit(ctx, o.sit)
}

// exitNotHere says that this machine lacks what hosts are made of, or does not
// permit it: none was tried. A host that was tried and does not boot is a failure.
const exitNotHere = 3

func fallback(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func lab(ctx context.Context, o options) (err error) {
	matching, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	var chosen []group
	count := 0
	for _, g := range groups() {
		if g.name == loaderGroup && !booted.Machines() {
			continue
		}
		var some []scenario
		for _, s := range g.scenarios {
			if matching.MatchString(g.name + "/" + s.name) {
				some = append(some, s)
			}
		}
		if len(some) > 0 {
			g.scenarios = some
			chosen = append(chosen, g)
			count += len(some)
		}
	}
	if o.list {
		for _, g := range chosen {
			for _, s := range g.scenarios {
				fmt.Printf("%-50s %s\n", g.name+"/"+s.name, s.shows)
			}
		}
		return nil
	}
	if count == 0 {
		return fmt.Errorf("-run %q matches no scenario: see -list", o.run)
	}
	if o.pairs < 1 {
		return fmt.Errorf("-pairs %d: want at least one", o.pairs)
	}
	if o.write && o.run != "" {
		return errors.New("-write wants all scenarios: leave -run out")
	}
	began := time.Now()
	log := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1f  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	if err := booted.Prepare(ctx, o.dir, log); err != nil {
		return err
	}
	if o.possible {
		return prepareBase(ctx, o, log)
	}
	if o.modules {
		return writeModules(ctx, o, log)
	}
	if o.bench {
		return runBench(ctx, o, log)
	}
	if err := os.RemoveAll(o.logs); err != nil {
		return err
	}
	if slices.ContainsFunc(chosen, func(g group) bool { return g.name == loaderGroup }) {
		// Before hosts are booted: what can't be had here is known then.
		if err := prepareBase(ctx, o, log); err != nil {
			return err
		}
	}
	rep := &report{where: measurements.Where(ctx)}
	for _, g := range chosen {
		if err := rep.run(ctx, o, g, log); err != nil {
			return err
		}
	}
	rep.took = time.Since(began)
	fmt.Print(rep.markdown(), rep.failures())
	if o.json != "" {
		if err := rep.writeJSON(o.json); err != nil {
			return err
		}
	}
	if failed := rep.failed(); failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed; logs are in %s", failed, count, o.logs)
	}
	if o.write {
		return measurements.Write(measurements.File, measurements.Section{Name: "lab", Command: "make lab LABFLAGS=-write", Text: rep.markdown()})
	}
	return nil
}

// run runs a group of scenarios, on new hosts after one that failed: what is
// wrong with a host must not be said of the next scenario.
func (r *report) run(ctx context.Context, o options, g group, log func(string, ...any)) error {
	for rest := g.scenarios; len(rest) > 0; {
		done := 0
		if err := inLab(ctx, o, log, func(w *world) error {
			if err := g.setUp(ctx, w); err != nil {
				w.keepLogs(g.name)
				return fmt.Errorf("setting up %s: %w", g.name, err)
			}
			log("%s: the hosts are up", g.name)
			for done < len(rest) {
				done++
				if !r.scenario(ctx, w, g, rest[done-1]) {
					break
				}
			}
			return context.Cause(ctx)
		}); err != nil {
			return err
		}
		if rest = rest[done:]; r.failed() >= maxFailed && len(rest) > 0 {
			fmt.Print(r.failures())
			return fmt.Errorf("%d scenarios failed: that is enough; logs are in %s", r.failed(), o.logs)
		}
	}
	return nil
}

// maxFailed scenarios end a run.
const maxFailed = 6

// scenario runs one and says whether it was good.
func (r *report) scenario(ctx context.Context, w *world, g group, s scenario) bool {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, scenarioTimeout, fmt.Errorf("not done in %s", scenarioTimeout))
	defer cancel()
	w.healthy = 0
	err := s.run(ctx, w)
	took := time.Since(began)
	ran := row{group: g.name, scenario: s, err: err, took: took, healthy: w.healthy}
	if err != nil {
		w.log("FAILED  %s/%s: %v", g.name, s.name, err)
		ran.ends = w.keepLogs(g.name + "/" + s.name)
	}
	r.rows = append(r.rows, ran)
	if err != nil {
		return false
	}
	w.log("ok      %s/%s (%.1f s)", g.name, s.name, took.Seconds())
	return true
}

// prepareBase makes the hosts' root and what machines are booted with, where there is none.
func prepareBase(ctx context.Context, o options, log func(string, ...any)) error {
	lock, err := booted.Lock(ctx, log)
	if err != nil {
		return err
	}
	base, err := booted.Base(ctx, o.cache, log)
	if err == nil && booted.Machines() {
		_, err = booted.Parts(ctx, o.cache, base, log)
	}
	return errors.Join(err, lock.Close())
}

// inLab opens a lab for use, and closes it.
func inLab(ctx context.Context, o options, log func(string, ...any), use func(*world) error) (err error) {
	lock, err := booted.Lock(ctx, log)
	if err != nil {
		return err
	}
	base, err := booted.Base(ctx, o.cache, log)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	l, err := booted.Open(ctx, lock, booted.Options{Dir: o.dir, Base: base, Log: log})
	defer func() { err = errors.Join(err, l.Close()) }()
	if err != nil {
		return err
	}
	return use(&world{lab: l, bin: bin, kept: o.logs, cached: o.cache, log: log})
}
