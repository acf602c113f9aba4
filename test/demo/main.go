// Command demo is the main job, end to end: a throw-away fleet of the first
// fleet's ten machines, a coordinator and one agent process per machine,
// carries a signed release to every machine over mTLS, and a release that is
// broken on two machines rolls itself back there. It ends with 0 only when
// everything it says was checked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	bin := flag.String("bin", "bin", "`directory` with fleet-agent, fleet-coordinator, fleetctl and web")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, *bin); {
	case err == nil:
	case ctx.Err() != nil && !errors.Is(err, errLeft):
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; nothing is left running")
		stop()
		os.Exit(130) //nolint:gocritic // All that was deferred is done.
	default:
		fmt.Fprintln(os.Stderr, "\ndemo: FAILED:", err)
		stop()
		os.Exit(1) //nolint:gocritic // All that was deferred is done.
	}
}

func run(ctx context.Context, bin string) (err error) {
	began := time.Now()
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	// Short: a unix socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "fleet-demo-")
	if err != nil {
		return err
	}
	d := &demo{bin: bin, dir: dir, repo: filepath.Join(dir, "fleet"), agents: map[string]*process{}}
	defer func() {
		err = errors.Join(err, d.cleanUp())
		if err == nil {
			fmt.Printf("\nAll of it was checked, and nothing is left running. %.1f s.\n", time.Since(began).Seconds())
		}
	}()
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Make a fleet: keys, CA, operator, coordinator's start-up kit", d.makeFleet},
		{"Start the coordinator, and an agent on each of ten machines", d.startAll},
		{"Publish version 1 to all: confirmed everywhere, and answering", d.publishGood},
		{"Publish version 2, broken on two machines; kill coordinator and an agent midway", d.publishBroken},
		{"Publish version 3, mended: everybody moves on", d.publishMended},
	} {
		fmt.Printf("\n── %s\n", step.title)
		if err := step.do(ctx); err != nil {
			if ctx.Err() == nil {
				d.explain()
			}
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	return nil
}
