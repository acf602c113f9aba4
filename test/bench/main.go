//go:build linux

// Command bench measures, on this machine and in processes of their own, what
// a wake-up of thousands of agents costs the coordinator against a bare
// grpc-go server, what an idle agent costs its host, and, in its own process,
// what built-in generators cost and what installing secrets costs a host. It writes its section of docs/measurements.md. Run it from the root of the repository: make bench.
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/test/bench/setup"
	"github.com/cameronraysmith/fleet/test/measurements"
)

type options struct {
	sizes string
	pairs int
	wakes int
	idle  time.Duration
	only  string
	null  bool
	out   string
}

// What -only may name.
const (
	onlyWake     = "wake"
	onlyIdle     = "idle"
	onlyGenerate = "generate"
	onlySecrets  = "secrets"
)

// measures says whether a part is measured.
func (o options) measures(part string) bool { return o.only == "" || o.only == part }

func main() {
	var o options
	flag.StringVar(&o.sizes, "n", "2000,9000", "numbers of agents")
	flag.IntVar(&o.pairs, "pairs", 5, "pairs of runs (bare, ours) for each number of agents")
	flag.IntVar(&o.wakes, "wakes", 5, "wake-ups measured in each run")
	flag.DurationVar(&o.idle, "idle", 2*time.Minute, "how long the idle agent is watched")
	flag.StringVar(&o.only, "only", "", "measure only wake, idle, generate or secrets, and write no file")
	flag.BoolVar(&o.null, "null", false, "compare the bare server with itself, to see this machine's noise, and write no file")
	flag.StringVar(&o.out, "out", measurements.File, "file to write to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, o options) (err error) {
	if !slices.Contains([]string{"", onlyWake, onlyIdle, onlyGenerate, onlySecrets}, o.only) {
		return fmt.Errorf("-only %s: want %s, %s, %s or %s", o.only, onlyWake, onlyIdle, onlyGenerate, onlySecrets)
	}
	began := time.Now()
	dir, err := os.MkdirTemp("", "fleet-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	b := &bench{dir: dir, wakes: o.wakes, log: log}
	if o.only != onlyGenerate {
		log("building")
		if b.programs, err = build(ctx, dir, o); err != nil {
			return err
		}
	}

	rep := report{machine: measurements.Where(ctx), pairs: o.pairs, wakes: o.wakes, watched: o.idle}
	if o.measures(onlyWake) {
		for field := range strings.SplitSeq(o.sizes, ",") {
			n, err := strconv.Atoi(field)
			if err != nil || n < 1 {
				return fmt.Errorf("-n %s: want numbers, comma-separated", o.sizes)
			}
			if err := setup.RaiseFiles(uint64(n) + 1000); err != nil {
				return err
			}
			bare, ours, err := b.wakeUps(ctx, n, o.pairs, o.null)
			if err != nil {
				return err
			}
			rep.wake = append(rep.wake, wakeResult{n: n, bare: bare, ours: ours})
		}
	}
	if o.measures(onlyIdle) && !o.null {
		if rep.idle, err = b.idleAgent(ctx, o.idle); err != nil {
			return err
		}
	}
	if o.measures(onlyGenerate) && !o.null {
		if rep.generate, err = b.generate(ctx); err != nil {
			return err
		}
	}
	if o.measures(onlySecrets) && !o.null {
		if rep.secrets, err = b.secrets(ctx); err != nil {
			return err
		}
	}
	rep.took = time.Since(began)
	text := rep.markdown()
	fmt.Print(text)
	if o.only != "" || o.null {
		return nil
	}
	if err := measurements.Write(o.out, measurements.Section{Name: "bench", Command: "make bench", Text: text}); err != nil {
		return err
	}
	if strings.Contains(text, "| "+missed+" |") {
		return errors.New("a target was missed: see the table")
	}
	return nil
}

// build has make build the programs, and builds what they are compared with.
func build(ctx context.Context, dir string, o options) (programs, error) {
	bin := filepath.Join(dir, "bin") + string(filepath.Separator)
	argvs := [][]string{{"go", "build", "-tags", "grpcnotrace,nethttpomithttp2", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./test/bench/bare", "./test/bench/agents", "./agent/internal/secrets/secretsbench"}}
	if !o.null {
		argvs = append(argvs, []string{"make", "build", "BIN=" + bin})
	}
	for _, argv := range argvs {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return programs{}, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
		}
	}
	return programs{
		coordinator: bin + "fleet-coordinator", agent: bin + "fleet-agent", bare: bin + "bare", agents: bin + "agents", secrets: bin + "secretsbench",
	}, nil
}
