package agenttest

import (
	"context"
	"crypto/ed25519"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1" //nolint:depguard // It is the other side of the edge, for tests.
)

// enter counts a call, and refuses or holds it as the test wants.
func (c *Coordinator) enter(ctx context.Context, method string) error {
	var err error
	var held chan struct{}
	c.change(func() {
		c.calls[method]++
		err, held = c.refuse[method], c.held[method]
	})
	if err != nil {
		return err
	}
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Enrol implements the service.
func (c *Coordinator) Enrol(ctx context.Context, r *fleetv1.EnrolRequest) (*fleetv1.EnrolResponse, error) {
	if err := c.enter(ctx, "Enrol"); err != nil {
		return nil, err
	}
	keys, err := pki.ParseHostKeys(r.GetHostKeys())
	if err != nil {
		return nil, err
	}
	der, err := c.issue(r.GetCsr())
	if err != nil {
		return nil, err
	}
	c.change(func() { c.hosts = keys })
	return &fleetv1.EnrolResponse{Certificate: der, Ca: [][]byte{c.Fleet.CA.Cert.Raw}, Roots: c.Fleet.Roots}, nil
}

func (c *Coordinator) issue(csr []byte) ([]byte, error) {
	pub, err := pki.ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	ttl := c.ttl
	c.mu.Unlock()
	return c.Fleet.CA.Issue(pki.HostIdentity(FleetID, Machine), pub, c.Fleet.Now(), ttl)
}

// Renew implements the service.
func (c *Coordinator) Renew(ctx context.Context, r *fleetv1.RenewRequest) (*fleetv1.RenewResponse, error) {
	if err := c.enter(ctx, "Renew"); err != nil {
		return nil, err
	}
	der, err := c.issue(r.GetCsr())
	if err != nil {
		return nil, err
	}
	return &fleetv1.RenewResponse{Certificate: der, Ca: [][]byte{c.Fleet.CA.Cert.Raw}}, nil
}

// Watch implements the service.
func (c *Coordinator) Watch(_ *fleetv1.WatchRequest, s grpc.ServerStreamingServer[fleetv1.WatchResponse]) error {
	if err := c.enter(s.Context(), "Watch"); err != nil {
		return err
	}
	h := make(chan fleetv1.WakeReason, 1)
	c.change(func() { c.hints[h] = true })
	defer c.change(func() { delete(c.hints, h) })
	next := fleetv1.WakeReason_WAKE_REASON_HELLO
	for {
		if err := s.Send(&fleetv1.WatchResponse{Reason: next}); err != nil {
			return err
		}
		select {
		case next = <-h:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// GetDesired implements the service.
func (c *Coordinator) GetDesired(ctx context.Context, r *fleetv1.GetDesiredRequest) (*fleetv1.GetDesiredResponse, error) {
	if err := c.enter(ctx, "GetDesired"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	roots := c.desired.GetRoots()
	return &fleetv1.GetDesiredResponse{
		Roots:    roots[min(r.GetRootVersion(), uint64(len(roots))):],
		Profiles: c.desired.GetProfiles(), Loosenings: c.desired.GetLoosenings(), Freshness: c.desired.GetFreshness(),
	}, nil
}

// PutFreshness implements the service: the machine's own is handed out.
func (c *Coordinator) PutFreshness(ctx context.Context, r *fleetv1.PutFreshnessRequest) (*fleetv1.PutFreshnessResponse, error) {
	if err := c.enter(ctx, "PutFreshness"); err != nil {
		return nil, err
	}
	for _, s := range r.GetStatements() {
		c.State(s)
	}
	return &fleetv1.PutFreshnessResponse{}, nil
}

// GetBlob implements the service.
func (c *Coordinator) GetBlob(r *fleetv1.GetBlobRequest, s grpc.ServerStreamingServer[fleetv1.GetBlobResponse]) error {
	if err := c.enter(s.Context(), "GetBlob"); err != nil {
		return err
	}
	c.mu.Lock()
	b, ok := c.blobs[fleet.Digest(r.GetDigest())]
	trickle, cut := c.trickle, c.cutBlobsAt
	c.mu.Unlock()
	if !ok || r.GetOffset() > uint64(len(b)) {
		return refusal.New(codes.NotFound, fleet.Reason{Code: refusal.NotFound, Message: "no such blob"})
	}
	b = b[r.GetOffset():]
	if cut > 0 && len(b) > cut {
		b = b[:cut]
	}
	for len(b) > 0 {
		n := min(len(b), 64<<10)
		if trickle > 0 {
			n = 1
			select {
			case <-time.After(trickle):
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
		if err := s.Send(&fleetv1.GetBlobResponse{Data: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Report implements the service.
func (c *Coordinator) Report(ctx context.Context, r *fleetv1.ReportRequest) (*fleetv1.ReportResponse, error) {
	if err := c.enter(ctx, "Report"); err != nil {
		return nil, err
	}
	report, err := release.OpenReport(r.GetReport(), c.reportKey())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ReportResponse{}
	c.change(func() {
		c.reports = append(c.reports, *report)
		c.accepted = append(c.accepted, r.GetAccepted()...)
		if len(r.GetAccepted()) > 0 {
			c.unknown = nil
		}
		if n := len(report.Transitions); n > 0 && !c.noAck {
			c.acked = max(c.acked, report.Transitions[n-1].Seq)
		}
		resp.AckedSeq, resp.UnknownGenerations = c.acked, c.unknown
	})
	return resp, nil
}

func (c *Coordinator) reportKey() ed25519.PublicKey {
	pub, err := c.HostKeys().ReportKey()
	if err != nil {
		return make(ed25519.PublicKey, ed25519.PublicKeySize) // fits no signature
	}
	return pub
}
