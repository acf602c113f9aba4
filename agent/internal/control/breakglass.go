package control

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// pieceBytes is how much of a file one message carries.
const pieceBytes = 32 << 10

// Apply takes a signed generation from a file.
func (s *service) Apply(in grpc.ClientStreamingServer[fleetv1.ApplyRequest, fleetv1.ApplyResponse]) error {
	profile, ref, err := s.host.Apply(&pieces{recv: in.Recv}, actorOf(in.Context()))
	if err != nil {
		return answer(err)
	}
	return in.SendAndClose(&fleetv1.ApplyResponse{Profile: string(profile), Target: refMessage(ref)}) //nolint:wrapcheck // A status already.
}

// pieces reads the file of a stream.
type pieces struct {
	recv func() (*fleetv1.ApplyRequest, error)
	rest []byte
}

// Read returns what is left of the newest piece, or of the next one.
func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		m, err := p.recv()
		if err != nil {
			return 0, err //nolint:wrapcheck // io.EOF, or a status.
		}
		p.rest = m.GetData()
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// ResetTrust has the host start from another trust root.
func (s *service) ResetTrust(ctx context.Context, r *fleetv1.ResetTrustRequest) (*fleetv1.ResetTrustResponse, error) {
	pin, err := fleet.ParseDigest(r.GetPin())
	if err != nil {
		return nil, refusal.New(codes.InvalidArgument, fleet.Reason{Code: refusal.Malformed, Message: err.Error()})
	}
	version, err := s.host.ResetTrust(r.GetRoot(), pin, actorOf(ctx))
	if err != nil {
		return nil, answer(err)
	}
	return &fleetv1.ResetTrustResponse{Version: version}, nil
}

// Apply hands a file over and says what the host works towards now.
func (c *Client) Apply(ctx context.Context, file io.Reader) (fleet.ProfileName, fleet.Ref, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.rpc.Apply(ctx)
	if err != nil {
		return "", fleet.Ref{}, c.explain(err)
	}
	for buf := make([]byte, pieceBytes); ; {
		n, err := io.ReadFull(file, buf)
		if n > 0 {
			// io.EOF says that the other side has ended the call: what it
			// answered tells why.
			if serr := s.Send(&fleetv1.ApplyRequest{Data: buf[:n]}); serr != nil && !errors.Is(serr, io.EOF) {
				return "", fleet.Ref{}, c.explain(serr)
			} else if serr != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return "", fleet.Ref{}, fmt.Errorf("reading the file: %w", err)
		}
	}
	m, err := s.CloseAndRecv()
	return fleet.ProfileName(m.GetProfile()), refOf(m.GetTarget()), c.explain(err)
}

// ResetTrust has the host start from another trust root.
func (c *Client) ResetTrust(ctx context.Context, root []byte, pin fleet.Digest) (version uint64, err error) {
	m, err := c.rpc.ResetTrust(ctx, &fleetv1.ResetTrustRequest{Root: root, Pin: string(pin)})
	return m.GetVersion(), c.explain(err)
}
