package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/ui"
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
	most := min(limit, maxReleases)
	if most == 0 {
		most = defaultReleases
	}
	if n := len(res.GetReleases()); n > int(most) {
		return nil, fmt.Errorf("asking for the releases: %w", tooMuch("%d releases, at most %d were asked for", n, most))
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

// eventPace is when the log counts as stalled: the coordinator may have to look
// through much of it for the events of one machine.
var eventPace = pace.Limit{Bytes: 1, Window: time.Minute}

// Events calls each with every event, in order, until there are no more, ctx
// ends (no error then), or each fails. Their number has no bound, as the log's
// has none: each MUST NOT keep them all. Without Follow the coordinator must go
// on sending, with it ctx is what ends the wait.
func (c *Client) Events(ctx context.Context, q EventQuery, each func(Event) error) error {
	limit := eventPace
	if q.Follow {
		limit.Window = forever
	}
	stop := ctx
	ctx, in, end := c.intake(ctx, 0, 0, limit)
	defer end()
	stream, err := c.rpc.WatchEvents(ctx, &fleetv1.WatchEventsRequest{FromSeq: q.From, Follow: q.Follow, Machine: string(q.Machine)})
	if err != nil {
		return fmt.Errorf("reading the event log: %w", c.explain(ctx, err))
	}
	for next := max(q.From, 1); ; {
		m, _, err := receive(in, stream.Recv)
		if errors.Is(err, io.EOF) || stop.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the event log: %w", err)
		}
		// Else it could send the same ones for ever.
		if m.GetSeq() < next || m.GetSeq() == math.MaxUint64 {
			return ui.WithHint(fmt.Errorf("reading the event log: %w: event %d comes out of order", ErrRefused, m.GetSeq()),
				"find out what has become of the coordinator, and do not trust it meanwhile")
		}
		next = m.GetSeq() + 1
		if err := each(Event{
			Seq: m.GetSeq(), Time: when(m.GetTime()), Actor: text(m.GetActor()), Kind: text(m.GetKind()),
			Machine: text(m.GetMachine()), Message: text(m.GetMessage()), Alarm: m.GetAlarm(), Hash: text(m.GetHash()),
		}); err != nil {
			return err
		}
	}
}

// forever is longer than any program runs.
const forever = 100 * 365 * 24 * time.Hour
