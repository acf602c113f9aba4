package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Export calls each with every record of the event log from number from on, as
// it is stored, until there are no more or each fails. Nothing in a record is
// verified, and their number has no bound: each MUST NOT keep them all.
func (c *Client) Export(ctx context.Context, from uint64, each func(record []byte) error) error {
	ctx, in, end := c.intake(ctx, 0, 0, eventPace)
	defer end()
	stream, err := c.rpc.ExportEvents(ctx, &fleetv1.ExportEventsRequest{FromSeq: from})
	if err != nil {
		return fmt.Errorf("exporting the event log: %w", c.explain(ctx, err))
	}
	for {
		m, _, err := receive(in, stream.Recv)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("exporting the event log: %w", err)
		}
		if err := each(m.GetRecord()); err != nil {
			return err
		}
	}
}
