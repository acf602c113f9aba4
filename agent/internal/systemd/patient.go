package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// askTimeout bounds one question with all that is asked again.
	askTimeout = 10 * time.Second
	// A systemd that doesn't answer is asked again after these pauses, 3 s in all:
	// one that a switch has replaced by a newer one listens again when it has read
	// back what it knew.
	firstPause, longestPause = 100 * time.Millisecond, 1600 * time.Millisecond
)

// Ask asks systemd over a connection of its own, and again for a while where that
// fails: a release must not be blamed for it. ask may be called more than once.
func (a Address) Ask(ctx context.Context, ask func(context.Context, *Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for pause := firstPause; ; pause *= 2 {
		err := a.once(ctx, ask)
		if err == nil || errors.Is(err, ErrAbsent) || ctx.Err() != nil || pause > longestPause {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

func (a Address) once(ctx context.Context, ask func(context.Context, *Conn) error) error {
	c, err := a.Connect(ctx)
	if err != nil {
		return err
	}
	err = ask(ctx, c)
	_ = c.Close() // What was answered counts.
	return err
}
