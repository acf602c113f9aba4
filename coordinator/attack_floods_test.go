package coordinator_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// openAll opens so many streams of blobs, from connections of their own, and
// reads nothing of them.
func (s *siege) openAll(conns, streams int) []grpc.ServerStreamingClient[fleetv1.GetBlobResponse] {
	var all []grpc.ServerStreamingClient[fleetv1.GetBlobResponse]
	for range conns {
		// A fixed window, so that this side keeps little of what comes.
		c := fleetv1.NewHostServiceClient(s.as(s.evil.cert, grpc.WithStaticStreamWindowSize(64<<10)))
		for range streams {
			b, err := c.GetBlob(s.t.Context(), &fleetv1.GetBlobRequest{Digest: string(s.blobOf("pyrite").Digest)})
			check(s.t, err)
			all = append(all, b)
		}
	}
	return all
}

// large makes the attacker's own bundle so large that no buffer holds it.
func (s *siege) large(size int) {
	s.t.Helper()
	b := make([]byte, size)
	ref := fleet.BlobRef{Digest: fleet.DigestOf(b), Size: uint64(size)}
	op := s.operator("dana")
	check(s.t, s.upload(op, b, ref))
	env, _ := s.generation("pyrite", 2, "large", ref)
	_, err := s.stage(op, "large", &fleetv1.SignedGeneration{Generation: env})
	check(s.t, err)
	_, err = op.Commit(s.t.Context(), &fleetv1.CommitRequest{Release: "large", ExpectedHead: "r1", Count: 1})
	check(s.t, err)
	s.head, s.own = "large", ref
}

// hostFloods are attacks by number, and by patience.
func hostFloods() []hostAttack {
	return []hostAttack{
		{
			name: "transitions without end", source: tufEndless, code: codes.ResourceExhausted, reason: refusal.TooMany, disk: 48 << 20,
			try: func(s *siege) error {
				return refuses(s.t, 200, func() error {
					var all []fleet.Transition
					for range fleet.MaxTransitions {
						t := s.evil.transition(fleet.StateHeld, fleet.Ref{})
						t.Reason.Message = strings.Repeat("x", 256)
						all = append(all, t)
					}
					return s.evil.reports(&fleetv1.ReportRequest{Report: s.evil.sealReport(fleet.ProfileStatus{}, all...)})
				})
			},
		},
		{
			name: "a thousand reports", source: uptaneDoS, ignored: "the newest counts", disk: 1 << 20,
			try: func(s *siege) error {
				for i := range 1000 {
					check(s.t, s.evil.reports(&fleetv1.ReportRequest{Report: s.evil.sealReport(fleet.ProfileStatus{
						State: fleet.StateHeld, Reason: fleet.Reason{Code: "x", Message: fmt.Sprint(i)},
					})}))
				}
				return nil
			},
		},
		{
			name: "a thousand questions what is desired", source: uptaneDoS, ignored: "answered, one after the other",
			try: func(s *siege) error {
				for range 1000 {
					_, err := s.evil.host.GetDesired(s.t.Context(), &fleetv1.GetDesiredRequest{})
					check(s.t, err)
				}
				return nil
			},
		},
		{
			name: "a storm of streams of one instance", source: uptaneDoS, code: codes.Aborted, reason: refusal.Replaced,
			try: func(s *siege) error {
				first := s.evil.mustWatch(s.t.Context())
				for range 200 {
					ctx, cancel := context.WithCancel(s.t.Context())
					s.evil.mustWatch(ctx)
					cancel()
				}
				return ended(first)
			},
		},
		{
			name: "a storm of streams of ever other instances", source: ownOne, code: codes.FailedPrecondition, reason: fleet.ReasonDuplicate, alarm: "duplicate-instance",
			try: func(s *siege) (err error) {
				s.evil.mustWatch(s.t.Context())
				for i := range 200 {
					s.evil.instance = fmt.Sprintf("copy-%d", i)
					_, err = s.evil.watch(s.t.Context())
				}
				return err
			},
		},
		{
			name: "a storm of connections", source: uptaneDoS, ignored: "a key has eight; the oldest make room",
			try: func(s *siege) error {
				for range 40 {
					_, err := fleetv1.NewHostServiceClient(s.as(s.evil.cert)).GetDesired(s.t.Context(), &fleetv1.GetDesiredRequest{})
					check(s.t, err)
				}
				return nil
			},
		},
		{
			name: "connections that say nothing", source: uptaneDoS, ignored: "take turns, and end",
			try: func(s *siege) error {
				for range 64 {
					var d net.Dialer
					c, err := d.DialContext(s.t.Context(), "tcp", s.addr)
					check(s.t, err)
					s.t.Cleanup(func() { _ = c.Close() })
				}
				return nil
			},
		},
		{
			name: "requests that never end", source: uptaneDoS, code: codes.Unavailable, reason: errOfGRPC,
			try: func(s *siege) error {
				conn := s.as(s.evil.cert)
				var err error
				waitFor(s.t, func() bool {
					_, cancel := unfinished(s.t, conn, fleetv1.HostService_Report_FullMethodName)
					s.t.Cleanup(cancel)
					ctx, done := context.WithTimeout(s.t.Context(), time.Second)
					defer done()
					_, err = fleetv1.NewHostServiceClient(conn).GetDesired(ctx, &fleetv1.GetDesiredRequest{})
					return status.Code(err) == codes.Unavailable
				})
				return err
			},
		},
		{
			name: "a hello of 100 kilobytes", source: tufEndless, code: codes.InvalidArgument, reason: refusal.Malformed,
			try: func(s *siege) error {
				s.evil.run = strings.Repeat("x", 100<<10)
				_, err := s.evil.watch(s.t.Context())
				return err
			},
		},
		{
			name: "a hello with control characters", source: uptaneDoS, code: codes.InvalidArgument, reason: refusal.Malformed,
			try: func(s *siege) error {
				s.evil.boot = "\x1b]0;gotcha\a"
				_, err := s.evil.watch(s.t.Context())
				return err
			},
		},
		{
			name: "headers of 100 kilobytes", source: tufEndless, code: codes.Internal, reason: errOfGRPC,
			try: func(s *siege) error {
				ctx := metadata.AppendToOutgoingContext(s.t.Context(), "x", strings.Repeat("x", 100<<10))
				_, err := s.evil.host.GetDesired(ctx, &fleetv1.GetDesiredRequest{})
				return err
			},
		},
		{
			name: "a download that is not read", source: tufSlow, code: codes.DeadlineExceeded, reason: refusal.Stalled, disk: 40 << 20, window: 2 * time.Second,
			heap: 48 << 20, // This side makes a bundle of 32 MiB.
			try: func(s *siege) error {
				s.large(32 << 20)
				b, err := s.evil.host.GetBlob(s.t.Context(), &fleetv1.GetBlobRequest{Digest: string(s.own.Digest)})
				check(s.t, err)
				return s.trailersOf(b)
			},
		},
		{
			name: "256 downloads that are not read", source: tufSlow, ignored: "little is held for each, until it stalls", heap: 88 << 20,
			try: func(s *siege) error {
				s.openAll(8, 32)
				return nil
			},
		},
		{
			name: "a stream that is not read, and a thousand hints", source: tufSlow, ignored: "hints are gathered", disk: 16 << 20,
			try: func(s *siege) error {
				s.evil.mustWatch(s.t.Context())
				op := s.operator("dana")
				for i := range uint64(1000) {
					id := fleet.ReleaseID(fmt.Sprintf("own%d", i))
					env, _ := s.generation("pyrite", i+2, id, s.blobOf("pyrite"))
					_, err := s.stage(op, id, &fleetv1.SignedGeneration{Generation: env})
					check(s.t, err)
					_, err = op.Commit(s.t.Context(), &fleetv1.CommitRequest{Release: string(id), ExpectedHead: string(s.headOr("r1")), Count: 1})
					check(s.t, err)
					s.head = id
				}
				return nil
			},
		},
	}
}

// trailersOf waits until the server ended a stream whose messages are not read,
// and reads what is left.
func (s *siege) trailersOf(b grpc.ServerStreamingClient[fleetv1.GetBlobResponse]) error {
	s.t.Helper()
	// The server gives it up after its window.
	select {
	case <-b.Context().Done():
	case <-time.After(5 * time.Second):
	}
	for {
		if _, err := b.Recv(); err != nil {
			if errors.Is(err, context.Canceled) {
				s.t.Error("the attacker gave up")
			}
			return err
		}
	}
}

// headOr is the release that the attack made the head, or another one.
func (s *siege) headOr(id fleet.ReleaseID) fleet.ReleaseID {
	if s.head != "" {
		return s.head
	}
	return id
}
