package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Release is a committed release.
type Release struct {
	ID                          fleet.ReleaseID
	Committed                   time.Time
	Actor, Revision             string
	Machines, Confirmed, Failed int
}

// Releases asks for the newest releases, at most limit.
func (c *Client) Releases(ctx context.Context, limit uint32) ([]Release, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.ListReleases(ctx, &fleetv1.ListReleasesRequest{Limit: limit})
	if err != nil {
		return nil, fmt.Errorf("asking for the releases: %w", c.explain(ctx, err))
	}
	out := make([]Release, 0, len(res.GetReleases()))
	for _, r := range res.GetReleases() {
		out = append(out, Release{
			ID: fleet.ReleaseID(text(r.GetId())), Committed: when(r.GetCommitted()), Actor: text(r.GetActor()), Revision: text(r.GetRevision()),
			Machines: int(r.GetMachines()), Confirmed: int(r.GetConfirmed()), Failed: int(r.GetFailed()),
		})
	}
	return out, nil
}

// Event is one record of the event log.
type Event struct {
	Seq                           uint64
	Time                          time.Time
	Actor, Kind, Machine, Message string
	Alarm                         bool
	Hash                          string
}

// EventQuery says which events are wanted.
type EventQuery struct {
	// From is the first sequence number; 0 means the last 50.
	From    uint64
	Follow  bool
	Machine fleet.MachineName
}

// Events calls each with every event, in order, until there are no more, ctx
// ends (no error then), or each fails.
func (c *Client) Events(ctx context.Context, q EventQuery, each func(Event) error) error {
	stop := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.WatchEvents(ctx, &fleetv1.WatchEventsRequest{FromSeq: q.From, Follow: q.Follow, Machine: string(q.Machine)})
	if err != nil {
		return fmt.Errorf("reading the event log: %w", c.explain(ctx, err))
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || stop.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the event log: %w", c.explain(ctx, err))
		}
		if err := each(Event{
			Seq: m.GetSeq(), Time: when(m.GetTime()), Actor: text(m.GetActor()), Kind: text(m.GetKind()),
			Machine: text(m.GetMachine()), Message: text(m.GetMessage()), Alarm: m.GetAlarm(), Hash: text(m.GetHash()),
		}); err != nil {
			return err
		}
	}
}
