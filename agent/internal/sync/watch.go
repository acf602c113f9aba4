package sync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Hint says what may be new at the coordinator.
type Hint int

// The hints.
const (
	// HintHello: the stream is open; look at everything.
	HintHello Hint = iota
	// HintDesired: desired documents changed.
	HintDesired
	// HintReport: the coordinator wants a report.
	HintReport
)

// Backoff between attempts at the coordinator: full jitter, so that agents
// that lost it together don't come back together.
type Backoff struct {
	// First and Max bound the growing interval; the wait is drawn evenly
	// from nothing to it.
	First, Max time.Duration
	// Slow is the interval after a refusal, which only a person can end.
	Slow time.Duration
}

// steady is for how long a stream must have lived to say that the coordinator is well: one
// that takes each host and falls over is given ever more time.
const steady = 10 * time.Second

// inOrder is what a coordinator says that stops because it was told to.
type inOrder string

func (s inOrder) Error() string { return string(s) }

// Watch keeps a stream of hints open until ctx ends. onHint gets each hint,
// onDown each loss of the stream or failed attempt; both MUST return at once.
// A receive from kick ends a wait early.
func (c *Client) Watch(ctx context.Context, b Backoff, kick <-chan struct{}, onHint func(Hint), onDown func(error)) error {
	grow := backoff.NewExponentialBackOff()
	grow.InitialInterval, grow.MaxInterval, grow.Multiplier = b.First, b.Max, 2
	grow.RandomizationFactor = 0 // full jitter is drawn below
	for {
		opened := time.Now() //nolint:forbidigo // For the difference only: time awake.
		err := c.stream(ctx, onHint)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		onDown(err)
		// A stream that lived is no reason to wait long for the next one, nor is one whose
		// coordinator is restarted: it is no worse than it was.
		if time.Since(opened) > min(steady, b.Max) || errors.As(err, new(inOrder)) { //nolint:forbidigo // Time awake.
			grow.Reset()
		}
		wait := grow.NextBackOff()
		if r := (*RefusedError)(nil); errors.As(err, &r) || errors.Is(err, ErrAnswer) {
			wait = max(wait, b.Slow)
		}
		if err := sleep(ctx, jitter(wait), kick); err != nil {
			return err
		}
	}
}

const (
	// maxHints within a hintWindow is more than an honest coordinator has to say:
	// it gathers what comes while a hint is under way.
	maxHints   = 4096
	hintWindow = 10 * time.Second
	// maxHintBytes bounds one.
	maxHintBytes = 1 << 10
)

// stream opens one stream and follows it until it breaks.
func (c *Client) stream(ctx context.Context, onHint func(Hint)) error {
	err := c.do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// Whoever accepts a connection and then says nothing is not there.
		silent := time.AfterFunc(callTimeout, cancel)
		defer silent.Stop()
		h := c.config.Hello
		s, err := fleetv1.NewHostServiceClient(conn).Watch(ctx, &fleetv1.WatchRequest{
			AgentVersion: h.Version, InstanceId: h.InstanceID, BootId: h.BootID, RunId: h.RunID, Capabilities: h.Capabilities,
		}, grpc.MaxCallRecvMsgSize(maxHintBytes))
		if err != nil {
			return err //nolint:wrapcheck // explain wants it as it is.
		}
		began := time.Now() //nolint:forbidigo // For the difference only.
		for n := 0; ; n++ {
			if time.Since(began) > hintWindow { //nolint:forbidigo // As above.
				n, began = 0, time.Now() //nolint:forbidigo // As above.
			}
			if n == maxHints {
				return fmt.Errorf("%w: more than %d hints within %s", ErrAnswer, maxHints, hintWindow)
			}
			m, err := s.Recv()
			if err != nil {
				return err //nolint:wrapcheck // explain wants it as it is.
			}
			silent.Stop()
			switch m.GetReason() {
			case fleetv1.WakeReason_WAKE_REASON_HELLO:
				onHint(HintHello)
			case fleetv1.WakeReason_WAKE_REASON_DESIRED, fleetv1.WakeReason_WAKE_REASON_UNSPECIFIED:
				onHint(HintDesired)
			case fleetv1.WakeReason_WAKE_REASON_REPORT:
				onHint(HintReport)
			}
		}
	})
	return fmt.Errorf("watching: %w", err)
}
