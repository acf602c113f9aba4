package transport

import (
	"context"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// AddTrustRoots takes in trust roots and wakes all hosts.
func (o *operatorService) AddTrustRoots(ctx context.Context, req *fleetv1.AddTrustRootsRequest) (*fleetv1.AddTrustRootsResponse, error) {
	version, changed, err := o.s.o.Publisher.AddRoots(ctx, callerOf(ctx).Path(), req.GetRoots())
	if changed {
		hosts := o.s.o.Registry.Hosts()
		names := make([]fleet.MachineName, len(hosts))
		for i, h := range hosts {
			names[i] = h.Name
		}
		o.s.o.Registry.Wake(registry.WakeDesired, names...)
	}
	if err != nil {
		return nil, err
	}
	return &fleetv1.AddTrustRootsResponse{Version: version}, nil
}

// ExportEvents streams the records of the event log up to its head of now.
func (o *operatorService) ExportEvents(req *fleetv1.ExportEventsRequest, stream grpc.ServerStreamingServer[fleetv1.ExportEventsResponse]) error {
	ctx, release := o.s.untilStop(stream.Context())
	defer release()
	for record, err := range o.s.o.Log.Records(ctx, req.GetFromSeq()) {
		if err != nil {
			return err
		}
		if err := stream.Send(&fleetv1.ExportEventsResponse{Record: record}); err != nil {
			return err
		}
	}
	return nil
}
