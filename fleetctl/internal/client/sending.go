package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// What is put up with while this side sends. A coordinator that takes nothing
// more, or never answers, must not hold up a publish for ever; a deadline for
// the whole cannot fit both a small and a large one.
var (
	// sendPace counts whole messages, as they leave.
	sendPace = pace.Default
	// stagePace leaves time for a message at its limit, most of a megabyte, which
	// counts only once it is gone.
	stagePace = pace.Limit{Bytes: pace.Default.Bytes, Window: 2 * time.Minute}
	// answerPace is for the answer after the last message: the coordinator writes
	// to its disk, at worst 4 GiB.
	answerPace = pace.Limit{Bytes: 1, Window: 2 * time.Minute}
)

// sending is one stream of messages to the coordinator.
type sending struct {
	c    *Client
	ctx  context.Context //nolint:containedctx // Of one call, as long as which a sending lives.
	stop context.CancelCauseFunc
	took *pace.Meter
}

// sending holds a stream to a pace. The context is that for the call; it ends
// when the stream stalls.
func (c *Client) sending(ctx context.Context, limit pace.Limit) (context.Context, *sending, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	return ctx, &sending{c: c, ctx: ctx, stop: stop, took: pace.NewMeter(limit, stop)}, func() { stop(nil) }
}

// send sends one message of so many bytes. As with gRPC, an error says only
// that there will be an answer.
func (s *sending) send(size int, send func() error) error {
	var err error
	s.took.Wait(func() int64 {
		if err = send(); err != nil {
			return 0
		}
		return int64(size)
	})
	return err
}

// answer waits for the answer to all that was sent, and explains its error.
func (s *sending) answer(receive func() error) error {
	var err error
	pace.NewMeter(answerPace, s.stop).Wait(func() int64 {
		err = receive()
		return 1
	})
	if cause := context.Cause(s.ctx); err != nil && errors.Is(cause, pace.ErrStalled) {
		return ui.WithHint(fmt.Errorf("%w: %w", ErrUnreachable, cause), "try again; if it stays so, look at the coordinator's log")
	}
	return s.c.explain(s.ctx, err)
}
