package transport

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// recentEvents is how many events are sent where no number is asked for.
const recentEvents = 50

// tally is how a release fares.
type tally struct{ confirmed, failed uint32 }

// tallies counts, for each release, the machines that ever confirmed it and
// those that refuse it.
func tallies(hosts []registry.Host) map[fleet.ReleaseID]*tally {
	out := map[fleet.ReleaseID]*tally{}
	at := func(id fleet.ReleaseID) *tally {
		if out[id] == nil {
			out[id] = &tally{}
		}
		return out[id]
	}
	for _, h := range hosts {
		confirmed, failed := map[fleet.ReleaseID]bool{}, map[fleet.ReleaseID]bool{}
		for _, refs := range h.Observed.Confirmed {
			for _, r := range refs {
				confirmed[r.Release] = true
			}
		}
		for _, p := range h.Observed.Profiles {
			for _, r := range p.Refused {
				failed[r.Release] = true
			}
		}
		for id := range confirmed {
			at(id).confirmed++
		}
		for id := range failed {
			at(id).failed++
		}
	}
	return out
}

// ListReleases returns committed releases, newest first.
func (o *operatorService) ListReleases(_ context.Context, req *fleetv1.ListReleasesRequest) (*fleetv1.ListReleasesResponse, error) {
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = defaultReleases
	}
	counts := tallies(o.s.o.Registry.Hosts())
	out := &fleetv1.ListReleasesResponse{}
	for _, r := range o.s.o.Publisher.Releases(min(limit, maxReleases)) {
		p := &fleetv1.Release{
			Id: string(r.ID), Committed: timeToProto(r.Committed), Actor: r.Actor, Revision: r.Revision,
			Machines: uint32(r.Machines), //nolint:gosec // Not negative, and bounded by the fleet.
		}
		if t := counts[r.ID]; t != nil {
			p.Confirmed, p.Failed = t.confirmed, t.failed
		}
		out.Releases = append(out.Releases, p)
	}
	return out, nil
}

// ListHosts streams what is known of each machine that the inventory lists or
// that has an identity.
func (o *operatorService) ListHosts(req *fleetv1.ListHostsRequest, stream grpc.ServerStreamingServer[fleetv1.ListHostsResponse]) error {
	hosts := o.s.o.Registry.Hosts()
	if req.GetMachine() != "" {
		h, _, err := o.subject(req.GetMachine(), "")
		if err != nil {
			return err
		}
		hosts = []registry.Host{h}
	}
	for _, h := range hosts {
		if h.Machine == nil && !h.Identity.Known() && h.Banned == "" {
			continue
		}
		out := hostToProto(h, o.s.o.Publisher.Desired(h.Name), o.s.o.Now())
		if req.GetReports() {
			report, err := o.s.o.Registry.SignedReport(stream.Context(), h.Name)
			if err != nil {
				return err
			}
			out.Report = report
		}
		if err := stream.Send(&fleetv1.ListHostsResponse{Host: out}); err != nil {
			return err
		}
	}
	return nil
}

// WatchEvents streams the event log.
func (o *operatorService) WatchEvents(req *fleetv1.WatchEventsRequest, stream grpc.ServerStreamingServer[fleetv1.WatchEventsResponse]) error {
	ctx, release := o.s.untilStop(stream.Context())
	defer release()
	head, err := o.s.o.Log.Head(ctx)
	if err != nil {
		return err
	}
	from := req.GetFromSeq()
	if from == 0 && head.Seq >= recentEvents {
		from = head.Seq - recentEvents + 1
	}
	send := func(e audit.Event) error {
		if req.GetMachine() != "" && string(e.Machine) != req.GetMachine() {
			return nil
		}
		return stream.Send(eventToProto(e))
	}
	if !req.GetFollow() {
		return o.sendEvents(ctx, max(from, 1), head.Seq, send)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go o.whileOperator(ctx, cancel)
	for e, err := range o.s.o.Log.Follow(ctx, from) {
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
				return cause
			}
			return err
		}
		if err := o.s.auth.still(ctx); err != nil {
			return err
		}
		if err := send(e); err != nil {
			return err
		}
	}
	return nil
}

// stillEvery is how often a silent stream of an operator is judged again.
const stillEvery = time.Minute

// whileOperator ends a stream soon after its operator ceased to be one. It
// returns when ctx ends.
func (o *operatorService) whileOperator(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(stillEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := o.s.auth.still(ctx); err != nil {
				end(err)
			}
		}
	}
}

// sendEvents sends the events from number from to number to.
func (o *operatorService) sendEvents(ctx context.Context, from, to uint64, send func(audit.Event) error) error {
	for from <= to {
		page, err := o.s.o.Log.Read(ctx, from, store.MaxList)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return fmt.Errorf("%w: record %d is missing", audit.ErrTampered, from)
		}
		for _, e := range page {
			if e.Seq > to {
				return nil
			}
			if err := send(e); err != nil {
				return err
			}
			from = e.Seq + 1
		}
	}
	return nil
}
