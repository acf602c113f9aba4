package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const (
	// MaxLookRecords bounds the records of one LookAtLog.
	MaxLookRecords = 16
	// maxLooks is how many a coordinator shows at most.
	maxLooks = 128
)

// ErrNoLooks is a coordinator that is too old to show its event log's head.
var ErrNoLooks = fmt.Errorf("%w: the coordinator is older than this fleetctl, and does not show the head of its event log", ErrNotFound)

// LogLook is what a coordinator shows of its event log. Nothing in it is
// verified.
type LogLook struct {
	Head fleet.LogHead
	// Looks are envelopes of what operators countersigned.
	Looks [][]byte
	// Records are those that were asked for, in that order; nil for none.
	Records [][]byte
}

// LookAtLog asks for the head of the event log, and for at most MaxLookRecords
// records by their numbers. Errors: ErrNoLooks.
func (c *Client) LookAtLog(ctx context.Context, records ...uint64) (LogLook, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.LookAtLog(ctx, &fleetv1.LookAtLogRequest{Records: records})
	if status.Code(err) == codes.Unimplemented {
		return LogLook{}, ErrNoLooks
	}
	if err != nil {
		return LogLook{}, fmt.Errorf("looking at the event log: %w", c.explain(ctx, err))
	}
	out := LogLook{Looks: res.GetLooks(), Records: res.GetRecords()}
	if h := res.GetHead(); h != nil {
		out.Head = fleet.LogHead{Seq: h.GetSeq(), Hash: h.GetHash()}
		if err := out.Head.Validate(); err != nil {
			return LogLook{}, fmt.Errorf("looking at the event log: %w: %w", ErrRefused, err)
		}
	}
	if len(out.Looks) > maxLooks {
		return LogLook{}, tooMuch("%d countersignatures, at most %d", len(out.Looks), maxLooks)
	}
	if len(out.Records) != len(records) {
		return LogLook{}, fmt.Errorf("looking at the event log: %w: %d records for %d numbers", ErrRefused, len(out.Records), len(records))
	}
	return out, nil
}

// Countersign hands over the caller's look.
func (c *Client) Countersign(ctx context.Context, look []byte) error {
	ctx, cancel := c.call(ctx)
	defer cancel()
	if _, err := c.rpc.Countersign(ctx, &fleetv1.CountersignRequest{Look: look}); err != nil {
		return fmt.Errorf("countersigning the event log: %w", c.explain(ctx, err))
	}
	return nil
}
