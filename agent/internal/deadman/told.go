package deadman

import (
	"context"
	"errors"
	"os/signal"
	"syscall"
)

// errTold says that the process was told to end, as by a shutdown or by who replaces its
// unit. A way back that began goes on without it, but where the host is shut down:
// there it is ended first, in order, and begun again after the boot.
var errTold = errors.New("told to end")

// untilTold is a context that ends, with errTold, when the process is told to.
func untilTold() (ctx context.Context, heard func()) {
	told, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	ctx, cancel := context.WithCancelCause(context.Background())
	unhook := context.AfterFunc(told, func() { cancel(errTold) })
	return ctx, func() {
		unhook()
		stop()
		cancel(nil)
	}
}
