package transport

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// hints are the messages of Watch, encoded once for all streams.
type hints struct {
	once                   sync.Once
	err                    error
	hello, desired, report grpc.PreparedMsg
}

// prepare encodes the messages with the first stream's codec, which is that of
// all: the server has one, and no compressor.
func (h *hints) prepare(s grpc.ServerStream) error {
	h.once.Do(func() {
		for _, m := range []struct {
			msg    *grpc.PreparedMsg
			reason fleetv1.WakeReason
		}{
			{&h.hello, fleetv1.WakeReason_WAKE_REASON_HELLO},
			{&h.desired, fleetv1.WakeReason_WAKE_REASON_DESIRED},
			{&h.report, fleetv1.WakeReason_WAKE_REASON_REPORT},
		} {
			if h.err = m.msg.Encode(s, &fleetv1.WatchResponse{Reason: m.reason}); h.err != nil {
				return
			}
		}
	})
	return h.err
}

// Watch registers the host's stream and sends hints until it ends. All that an
// idle stream holds is this goroutine and the session.
func (h *hostService) Watch(req *fleetv1.WatchRequest, stream grpc.ServerStreamingServer[fleetv1.WatchResponse]) error {
	ctx := stream.Context()
	m := callerOf(ctx).machine()
	if err := h.s.hints.prepare(stream); err != nil {
		return err
	}
	session, err := h.attach(ctx, req)
	if err != nil {
		return err
	}
	defer h.s.o.Registry.Detach(session)
	if err := stream.SendMsg(&h.s.hints.hello); err != nil {
		return err
	}
	if host, _ := h.s.o.Registry.Host(m); host.Observed.Instance == "" {
		// Nothing is known of this host: its store may have been lost.
		h.s.o.Registry.Wake(registry.WakeReport, m)
	}
	for {
		select {
		case <-session.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		wake := session.Take()
		if wake.Cut() {
			return session.Cause()
		}
		if wake&registry.WakeDesired != 0 {
			if err := stream.SendMsg(&h.s.hints.desired); err != nil {
				return err
			}
		}
		if wake&registry.WakeReport != 0 {
			if err := stream.SendMsg(&h.s.hints.report); err != nil {
				return err
			}
		}
	}
}

// attach opens the session. It is apart so that the request is not held on to.
func (h *hostService) attach(ctx context.Context, req *fleetv1.WatchRequest) (*registry.Session, error) {
	hello := registry.Hello{
		Version: req.GetAgentVersion(), Instance: req.GetInstanceId(), Boot: req.GetBootId(),
		Run: req.GetRunId(), Capabilities: req.GetCapabilities(),
	}
	if err := registry.CheckHello(hello); err != nil {
		return nil, err
	}
	return h.s.o.Registry.Attach(ctx, callerOf(ctx).machine(), hello)
}
