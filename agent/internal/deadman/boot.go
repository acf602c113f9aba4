package deadman

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Resume is the whole of a process that goes on, after a boot, with the orders that
// the switches below dir were given before it, each with its deadline counted anew:
// the processes that waited are gone, and nobody says that there is an agent which
// would start others. It returns the exit code, once all are decided; at once where
// none is to be.
func Resume(dir string, runner []string) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	if err := resume(context.Background(), dir, process{
		runner: runner, now: time.Now, out: os.Stderr, //nolint:forbidigo // A process of its own: this is where time comes in.
		restart: restartUnit, pause: startPause,
	}); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "fleet dead-man switches: %v\n", err)
		return 1
	}
	return 0
}

// resume has a process like one in each directory that has an order.
func resume(ctx context.Context, dir string, like process) error {
	orders, err := filepath.Glob(filepath.Join(dir, "*", fileOrder))
	if err != nil {
		return fmt.Errorf("looking for orders: %w", err)
	}
	errs := make([]error, len(orders))
	like.out = &lines{to: like.out}
	var wait sync.WaitGroup
	for i, order := range orders {
		wait.Go(func() {
			p := like
			p.dir = filepath.Dir(order)
			// What is decided is not waited for, nor is another order.
			p.idle = time.Millisecond
			if err := p.run(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", filepath.Base(p.dir), err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
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
