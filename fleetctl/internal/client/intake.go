package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	_ "google.golang.org/grpc/encoding/proto" // Registers the codec that is wrapped below.
	"google.golang.org/protobuf/proto"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// What the coordinator may answer. It may be in the wrong hands, and this
// program runs where the release keys are: it must not be made to take up all
// memory, nor to wait for ever.
const (
	// maxMessage bounds one message, in bytes: two envelopes at their limit
	// (fleet.MaxDocumentBytes each, in base64), a host with all its profiles, a
	// thousand releases.
	maxMessage = 2 << 20
	// maxKeysMessage bounds the one answer that has something of every host.
	maxKeysMessage = 64 << 20
	// maxHosts is more than a fleet has: hosts that left it and banned ones are
	// listed, too.
	maxHosts = 2 * kit.MaxMachines
	// maxReleases is what a coordinator sends at most, whatever it is asked for.
	maxReleases = 1000
	// defaultReleases is what it sends where no number is asked for.
	defaultReleases = 50

	maxHeadEntries = kit.MaxMachines * fleet.MaxProfiles
	maxHeadBytes   = 1 << 30
	maxHostsBytes  = 512 << 20
	// entryBytes is what an entry costs besides its content, so that empty ones
	// cost something.
	entryBytes = 128
	// profileBytes and refBytes are what parts of a host take up at least, much
	// more than they may have in a message.
	profileBytes = 512
	refBytes     = 64
)

// ErrTooMuch is an answer that no coordinator of a fleet has reason to give. It
// is a refusal, by this side.
var ErrTooMuch = fmt.Errorf("%w: the coordinator answers more than a fleet can have", ErrRefused)

func tooMuch(format string, args ...any) error {
	return ui.WithHint(fmt.Errorf("%w: %s", ErrTooMuch, fmt.Sprintf(format, args...)),
		"update fleetctl if the coordinator is newer; else find out what has become of the coordinator, and do not trust it meanwhile")
}

// intake is how much more is taken of one stream.
type intake struct {
	c       *Client
	ctx     context.Context //nolint:containedctx // Of one call, as long as which an intake lives.
	meter   *pace.Meter
	entries int
	bytes   int
}

// intake bounds a stream to that many entries and bytes, at no less than a
// pace. The context is that for the call; it ends when the stream stalls.
func (c *Client) intake(ctx context.Context, entries, bytes int, limit pace.Limit) (context.Context, *intake, context.CancelFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	return ctx, &intake{c, ctx, pace.NewMeter(limit, stop), entries, bytes}, func() { stop(nil) }
}

// take notes one entry and what it costs.
func (in *intake) take(cost int) error {
	in.entries--
	in.bytes -= cost + entryBytes
	switch {
	case in.entries < 0:
		return tooMuch("too many entries")
	case in.bytes < 0:
		return tooMuch("too many bytes")
	}
	return nil
}

// receive waits for the next message; io.EOF ends a stream, as it does there.
func receive[M proto.Message](in *intake, recv func() (M, error)) (M, int, error) {
	var m M
	var err error
	size := 0
	in.meter.Wait(func() int64 {
		if m, err = recv(); err == nil {
			size = proto.Size(m)
		}
		return int64(size)
	})
	switch cause := context.Cause(in.ctx); {
	case err == nil, errors.Is(err, io.EOF):
		return m, size, err
	case errors.Is(cause, pace.ErrStalled):
		return m, 0, ui.WithHint(fmt.Errorf("%w: %w", ErrUnreachable, cause), "try again; if it stays so, look at the coordinator's log")
	}
	return m, 0, in.c.explain(in.ctx, err)
}
