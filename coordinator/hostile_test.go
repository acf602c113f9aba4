package coordinator_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// unfinished begins a call of a method with one request, and does not end the
// request.
func unfinished(t *testing.T, c *grpc.ClientConn, method string) (s grpc.ClientStream, cancel func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
	check(t, err)
	return s, cancel
}

// TestUnfinishedRequests: a key has few requests that are not whole, on however
// many connections, because each is kept as far as it came.
func TestUnfinishedRequests(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("pyrite")
	conns := []*grpc.ClientConn{w.as(a.cert), w.as(a.cert)}
	refused := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := fleetv1.NewHostServiceClient(conns[0]).GetDesired(ctx, &fleetv1.GetDesiredRequest{})
		if status.Code(err) != codes.Unavailable {
			check(t, err)
		}
		return err != nil
	}
	var cancels []func()
	waitFor(t, func() bool {
		_, cancel := unfinished(t, conns[len(cancels)%2], fleetv1.HostService_Report_FullMethodName)
		t.Cleanup(cancel)
		cancels = append(cancels, cancel)
		return refused()
	})
	if len(cancels) > 60 {
		t.Errorf("refused only after %d", len(cancels))
	}
	// Nobody else is meant, not even an operator with the same address.
	_, err := w.operator("vic").ListHosts(t.Context(), &fleetv1.ListHostsRequest{})
	check(t, err)
	for _, cancel := range cancels {
		cancel()
	}
	waitFor(t, func() bool { return !refused() })
	// A stream whose request has come is none that is under way.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a.mustWatch(ctx)
	_, err = a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	check(t, err)
}

// TestReplacedKeyAfterLostStore: a key that an enrolment replaced comes first
// after a loss of the store, and renews; the host is served all the same.
func TestReplacedKeyAfterLostStore(t *testing.T) {
	w := newWorld(t)
	old := w.enrolled("pyrite")
	w.clock.advance(24 * time.Hour)
	young := w.newAgent("pyrite", "instance-new")
	check(t, young.enrol(w.join("pyrite")))
	w.clock.advance(24 * time.Hour)
	w.wipe()
	old.use(old.cert.Certificate[0])
	_, err := old.renew()
	check(t, err)
	young.use(young.cert.Certificate[0])
	_, err = young.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	check(t, err)
	_, err = old.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	wantRefusal(t, err, codes.PermissionDenied, refusal.IdentitySuperseded)
}

// TestReplacedKeyDoesNotCutItsHost: connections with the old certificate cost
// the host none of its own.
func TestReplacedKeyDoesNotCutItsHost(t *testing.T) {
	w := newWorld(t)
	old := w.enrolled("pyrite")
	young := w.newAgent("pyrite", "instance-new")
	w.clock.advance(time.Hour)
	check(t, young.enrol(w.join("pyrite")))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := young.mustWatch(ctx)
	for range 12 {
		_, err := fleetv1.NewHostServiceClient(w.as(old.cert)).GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
		wantRefusal(t, err, codes.PermissionDenied, refusal.IdentitySuperseded)
	}
	w.publish("r1", "", 1, []fleet.MachineName{"pyrite"})
	await(t, s, fleetv1.WakeReason_WAKE_REASON_DESIRED)
}
