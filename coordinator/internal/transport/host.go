package transport

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const (
	// blobChunk is the most that one message of a blob may carry, in bytes.
	blobChunk = 256 << 10
	// blobPiece is what one carries to a host: small, so that a slow line shows
	// progress within the window that pace.Default gives it, and with its header
	// within gRPC's buffers of 32 KiB: the next size is 1 MiB, and a host that does
	// not read would hold several of them for each call.
	blobPiece = 31 << 10
	// maxAccepted bounds the generations that one report may carry.
	maxAccepted = 256
	// maxReportEnvelope bounds a report's envelope: base64 and JSON around it.
	maxReportEnvelope = fleet.MaxReportBytes*4/3 + 16<<10
)

// Kinds of events that this package writes.
const (
	KindReportRefused   audit.Kind = "report-refused"
	KindAcceptedInvalid audit.Kind = "accepted-generation-invalid"
	KindNumberReused               = publish.KindNumberReused
)

type hostService struct {
	fleetv1.UnimplementedHostServiceServer
	s *Server
}

// GetDesired returns what is desired of the caller.
func (h *hostService) GetDesired(ctx context.Context, req *fleetv1.GetDesiredRequest) (*fleetv1.GetDesiredResponse, error) {
	m := callerOf(ctx).machine()
	out := &fleetv1.GetDesiredResponse{Loosenings: h.s.o.Publisher.Loosenings(m), Freshness: h.s.o.Publisher.Freshness(m)}
	if h := h.s.o.Looks.Newest(); !h.IsZero() {
		out.LogHead = &fleetv1.LogHead{Seq: h.Seq, Hash: h.Hash}
	}
	// Versions count from 1, without gaps.
	if n, roots := req.GetRootVersion(), h.s.o.Publisher.Roots(); n < uint64(len(roots)) {
		out.Roots = roots[n:]
	}
	for _, d := range h.s.o.Publisher.Desired(m) {
		if d.Newest.Stale {
			continue
		}
		p := &fleetv1.DesiredProfile{Profile: string(d.Newest.Profile)}
		var err error
		if p.Newest, err = h.s.signed(ctx, d.Newest); err != nil {
			return nil, err
		}
		if d.Revert != nil && !d.Revert.Stale {
			if p.Revert, err = h.s.signed(ctx, d.Revert); err != nil {
				return nil, err
			}
		}
		out.Profiles = append(out.Profiles, p)
	}
	return out, nil
}

func (s *Server) signed(ctx context.Context, g *publish.Gen) (*fleetv1.SignedGeneration, error) {
	generation, secrets, err := s.o.Publisher.Envelopes(ctx, g)
	if err != nil {
		return nil, err
	}
	return &fleetv1.SignedGeneration{Generation: generation, Secrets: secrets}, nil
}

// PutFreshness takes freshness statements, and wakes who is told something new; the
// answer is sent when they are durable.
func (h *hostService) PutFreshness(ctx context.Context, req *fleetv1.PutFreshnessRequest) (*fleetv1.PutFreshnessResponse, error) {
	if n := len(req.GetStatements()); n > publish.MaxStatements {
		return nil, malformed(fmt.Errorf("%d statements, at most %d", n, publish.MaxStatements))
	}
	news, err := h.s.o.Publisher.TakeFreshness(ctx, callerOf(ctx).machine(), req.GetStatements())
	if err != nil {
		return nil, err
	}
	h.s.o.Registry.Wake(registry.WakeDesired, news...)
	return &fleetv1.PutFreshnessResponse{}, nil
}

// GetBlob streams a blob that the caller's desired documents name.
func (h *hostService) GetBlob(req *fleetv1.GetBlobRequest, stream grpc.ServerStreamingServer[fleetv1.GetBlobResponse]) error {
	m := callerOf(stream.Context()).machine()
	digest, err := fleet.ParseDigest(req.GetDigest())
	if err != nil {
		return malformed(err)
	}
	size, err := h.s.o.Publisher.MayFetch(m, digest)
	if err != nil {
		return err
	}
	if req.GetOffset() > size {
		return malformed(fmt.Errorf("offset %d in a blob of %d bytes", req.GetOffset(), size))
	}
	r, err := h.s.o.Blobs.Open(digest, req.GetOffset())
	if err != nil {
		return err
	}
	// A host that does not read holds up what sends to it, until the call ends.
	stalled, done := make(chan error, 1), make(chan error, 1)
	meter := pace.NewMeter(h.s.o.TransferPace, func(err error) {
		select {
		case stalled <- err:
		default:
		}
	})
	go func() {
		defer func() { _ = r.Close() }() // It was only read.
		buf := make([]byte, min(blobPiece, max(size-req.GetOffset(), 1)))
		done <- h.sendBlob(stream, m, r, buf, meter)
	}()
	select {
	case err := <-done:
		return err
	case err := <-stalled:
		return err
	}
}

// sendBlob sends what r holds, until the end of it or of the stream.
func (h *hostService) sendBlob(stream grpc.ServerStreamingServer[fleetv1.GetBlobResponse], m fleet.MachineName, r io.Reader, buf []byte, meter *pace.Meter) error {
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			var sent error
			meter.Wait(func() int64 {
				sent = stream.Send(&fleetv1.GetBlobResponse{Data: buf[:n]})
				return int64(n)
			})
			if sent != nil {
				return sent
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if host, _ := h.s.o.Registry.Host(m); host.Banned != "" {
			return fmt.Errorf("%w: %s", registry.ErrBanned, host.Banned)
		}
		if err := context.Cause(h.s.stopping); err != nil {
			return err
		}
	}
}

// Report takes a signed report; the answer is sent when it is durable.
func (h *hostService) Report(ctx context.Context, req *fleetv1.ReportRequest) (*fleetv1.ReportResponse, error) {
	m := callerOf(ctx).machine()
	key, err := h.reportKey(ctx, m, req)
	if err != nil {
		return nil, err
	}
	if len(req.GetReport()) > maxReportEnvelope || len(req.GetAccepted()) > maxAccepted {
		return nil, malformed(fmt.Errorf("a report of %d bytes with %d generations", len(req.GetReport()), len(req.GetAccepted())))
	}
	r, err := release.OpenReport(req.GetReport(), key)
	if err != nil {
		h.s.o.Registry.Alarm(ctx, m, KindReportRefused, "a report is not signed as the registered report key would: "+err.Error())
		return nil, err
	}
	if err := registry.CheckReport(r, h.s.o.Fleet, m); err != nil {
		return nil, err
	}
	h.adopt(ctx, m, req.GetAccepted())
	out := &fleetv1.ReportResponse{}
	for _, p := range r.Profiles {
		for _, d := range h.s.o.Publisher.Unknown(m, p.Profile, p.Highest, p.Current, p.Confirmed, p.LastGood) {
			out.UnknownGenerations = append(out.UnknownGenerations, string(d))
		}
		if clash := h.s.o.Publisher.Clash(m, p.Profile, p.Highest); clash != nil {
			h.s.o.Registry.Alarm(ctx, m, KindNumberReused, fmt.Sprintf("%s: the host accepted %s as generation %s, here that is %s: somebody else signs",
				p.Profile, p.Highest.Digest.Short(), p.Highest.Number, clash.Ref.Digest.Short()))
		}
	}
	if out.AckedSeq, err = h.s.o.Registry.Report(ctx, m, r, req.GetReport()); err != nil {
		return nil, err
	}
	return out, nil
}

// reportKey is the registered report key; one that comes with the report counts
// only where none is registered, because the store was lost.
func (h *hostService) reportKey(ctx context.Context, m fleet.MachineName, req *fleetv1.ReportRequest) ([]byte, error) {
	host, _ := h.s.o.Registry.Host(m)
	encoded := host.Identity.Keys
	if len(encoded) == 0 {
		encoded = req.GetHostKeys()
		if len(encoded) == 0 {
			return nil, registry.ErrNoKeys
		}
		keys, err := pki.ParseHostKeys(encoded)
		if err != nil {
			return nil, malformed(err)
		}
		if keys.Machine != m || len(req.GetHostKeysMac()) > maxMAC {
			return nil, malformed(errors.New("the host keys are of another machine, or their proof is too long"))
		}
		if err := h.s.o.Registry.SetKeys(ctx, m, encoded, req.GetHostKeysMac()); err != nil {
			return nil, err
		}
	}
	keys, err := pki.ParseHostKeys(encoded)
	if err != nil {
		return nil, err
	}
	return keys.ReportKey()
}

// maxMAC bounds the proof of host keys, in bytes.
const maxMAC = 64

// adopt takes in generations that the host accepted. One that is not valid
// does not spoil the report: it is an alarm.
func (h *hostService) adopt(ctx context.Context, m fleet.MachineName, accepted []*fleetv1.SignedGeneration) {
	for _, a := range accepted {
		if _, err := h.s.o.Publisher.Adopt(ctx, m, a.GetGeneration(), a.GetSecrets()); err != nil {
			h.s.o.Slog.Warn("a generation that a host accepted was not adopted", "machine", string(m), "error", err)
			if ref := (*release.Refusal)(nil); errors.As(err, &ref) {
				h.s.o.Registry.Alarm(ctx, m, KindAcceptedInvalid, "the host sent a generation as accepted that is not valid: "+err.Error())
			}
		}
	}
}

// Renew issues a new certificate over the caller's key.
func (h *hostService) Renew(ctx context.Context, req *fleetv1.RenewRequest) (*fleetv1.RenewResponse, error) {
	c := callerOf(ctx)
	cert, err := h.s.o.Enroller.Renew(ctx, c.machine(), c.Leaf, req.GetCsr())
	if err != nil {
		return nil, err
	}
	return &fleetv1.RenewResponse{Certificate: cert, Ca: h.s.o.Authority.DER()}, nil
}
