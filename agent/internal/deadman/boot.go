package deadman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
)

// maxBoots bounds how often a deadline is counted anew after a boot: a host that
// boots again and again, by what was activated, must not put it off for ever.
const maxBoots = 3

// soon is what is left of a deadline after that many.
const soon = 5 * time.Second

// Resume is the whole of a process that goes on, after a boot, with the orders that
// the switches below dir were given before it, each with its deadline counted anew:
// the processes that waited are gone, and nobody says that there is an agent which
// would start others. It returns the exit code, once all are decided; at once where
// none is to be.
func Resume(dir string, runner []string) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	// What it says goes to a journal that may be restarted meanwhile. Not ignored:
	// the programs of the way back would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, heard := untilTold()
	defer heard()
	if err := resume(ctx, dir, process{
		runner: runner, now: time.Now, out: os.Stderr, //nolint:forbidigo // A process of its own: this is where time comes in.
		restart: restartUnit, start: startUnit, stopping: systemd.Address("").Stopping, pause: startPause,
	}); err != nil && ctx.Err() == nil {
		_, _ = fmt.Fprintf(os.Stderr, "fleet dead-man switches: %v\n", err)
		return 1
	}
	return 0
}

// resume has a process like one in each directory that has an order. What fails is
// tried again by itself: ending for it would count the others' deadlines anew.
func resume(ctx context.Context, dir string, like process) error {
	orders, err := ordersBelow(dir)
	if err != nil {
		return err
	}
	errs := make([]error, len(orders))
	like.out = &lines{to: like.out}
	// What is decided is not waited for, nor is another order.
	like.resumes, like.idle = true, time.Millisecond
	var wait sync.WaitGroup
	for i, order := range orders {
		wait.Go(func() {
			p := like
			p.dir = filepath.Dir(order)
			p.count()
			if err := p.patiently(ctx, startAttempts, func() error { return p.goOn(ctx) }); err != nil {
				errs[i] = fmt.Errorf("%s: %w", filepath.Base(p.dir), err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// goOn is a switch's process after a boot.
func (p *process) goOn(ctx context.Context) error {
	o, err := readOrder(p.dir)
	if errors.Is(err, errDamaged) {
		// Nobody can carry it out; the agent, with the next one, replaces it.
		p.say("%s: %v", filepath.Base(p.dir), err)
		return nil
	}
	if err != nil || o == nil {
		return err
	}
	v, err := verdictOn(p.dir, o.ID)
	if err != nil {
		return err
	}
	if v == Fired && !p.unfinished(o) {
		// It went back, and no agent ever learned of it.
		if o.Unit != "" {
			return p.start(ctx, o.Unit)
		}
		return nil
	}
	return p.run(ctx)
}

// count counts the boots that an order waited in, and leaves it little time after too
// many. Where they can't be counted the deadline is as it was.
func (p *process) count() {
	o, err := readOrder(p.dir)
	if err != nil || o == nil {
		return
	}
	file := filepath.Join(p.dir, fileBoots+o.ID)
	n := 0
	if text, err := atomicfile.ReadAtMost(file, 16); err == nil {
		n, _ = strconv.Atoi(string(text)) // Not a number is none.
	}
	if n >= maxBoots {
		p.say("%s: the host booted %d times, and nobody says that it works", o.ID, n)
		p.longest = soon
		return
	}
	if err := atomicfile.WriteFile(file, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
		p.say("counting boots: %v", err)
	}
}

// lines keeps what several switches say apart.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

// Write writes a line.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b) //nolint:wrapcheck // It is in the place of the writer.
}
