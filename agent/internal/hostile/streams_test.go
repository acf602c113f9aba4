package hostile

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

type serverStream = grpc.ServerStream

// watching has streams of hints served otherwise; those that are open end.
func watching(serve func(grpc.ServerStream) error) func(*host) {
	return func(h *host) {
		h.coord.Lie(streaming("Watch", serve))
		again(h)
	}
}

// again ends all connections.
func again(h *host) {
	h.coord.Stop()
	h.coord.Start()
}

// flood sends the same hint without end.
func flood(m *fleetv1.WatchResponse) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		for {
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}
}

// bounded checks that a flood does not become one of calls, nor of bytes.
func bounded(method string) func(*host) {
	return func(h *host) {
		h.t.Helper()
		calls, sent, begin := h.coord.Calls(method), h.coord.Sent(), time.Now()
		h.coord.Wait("calls", func() bool {
			// Something changes all the time: the flood goes on.
			return time.Since(begin) > 2*time.Second || h.coord.Calls(method) > calls+200
		})
		seconds := time.Since(begin).Seconds()
		if n := float64(h.coord.Calls(method)-calls) / seconds; n > 60 {
			h.t.Errorf("%.0f calls of %s a second", n, method)
		}
		if n := float64(h.coord.Sent()-sent) / seconds; n > 4<<20 {
			h.t.Errorf("%.0f bytes a second", n)
		}
	}
}

// streams are attacks with the stream of hints.
func streams() []attack {
	hint := func(r fleetv1.WakeReason) *fleetv1.WatchResponse { return &fleetv1.WatchResponse{Reason: r} }
	row := func(name, source, method string, serve func(grpc.ServerStream) error) attack {
		return attack{name: name, source: source, refusal: fleet.ReasonRefused, lie: watching(serve), truth: again, held: bounded(method)}
	}
	return []attack{
		row("hints without end that something is desired", uptaneDoS, "GetDesired", flood(hint(fleetv1.WakeReason_WAKE_REASON_DESIRED))),
		row("hints without end that a report is wanted", uptaneDoS, "Report", flood(hint(fleetv1.WakeReason_WAKE_REASON_REPORT))),
		row("greetings without end", uptaneDoS, "GetDesired", flood(hint(fleetv1.WakeReason_WAKE_REASON_HELLO))),
		{
			name: "hints of a kind that nobody knows", source: ownSigned, refusal: fleet.ReasonUnreachable, truth: again,
			lie: watching(func(s grpc.ServerStream) error {
				for range 10 {
					if err := s.SendMsg(hint(99)); err != nil {
						return err
					}
				}
				return refused(codes.Unavailable, "enough")
			}),
		},
		{
			name: "hints of a megabyte", source: tufEndless, refusal: fleet.ReasonRefused,
			lie: watching(flood(large(1 << 20))), truth: again,
		},
		{
			name: "streams that end at once", source: uptaneDrop, refusal: fleet.ReasonUnreachable,
			lie: watching(func(grpc.ServerStream) error { return refused(codes.Unavailable, "no") }),
		},
		{
			name: "no coordinator at all", source: uptaneDrop, refusal: fleet.ReasonUnreachable,
			lie:   func(h *host) { h.coord.Stop() },
			truth: func(h *host) { h.coord.Start() },
		},
		{
			name: "another one that answers at the first address", source: tufMirror, ignored: "the next address is tried",
			before: func(h *host) {
				evil := agenttest.NewCoordinator(agenttest.NewFleet(h.t))
				j := h.fleet.Join(evil.Address, h.coord.Address)
				h.setup.Join = j.String()
				h.enrolled()
			},
			lie:  func(h *host) { h.restart() },
			seen: asksAgain,
		},
	}
}

// large is a hint with a field of that size that nobody knows.
func large(size int) *fleetv1.WatchResponse {
	m := &fleetv1.WatchResponse{}
	m.ProtoReflect().SetUnknown(unknownField(size))
	return m
}
