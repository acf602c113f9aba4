package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

const (
	defaultReleases = 50
	maxReleases     = 1000
	// maxText bounds what people write into requests, in bytes.
	maxText = fleet.MaxReasonBytes
)

type operatorService struct {
	fleetv1.UnimplementedOperatorServiceServer
	s *Server
}

// ApplyInventory replaces machines and, for admins, operators, and adds the bans
// that the repository has.
func (o *operatorService) ApplyInventory(ctx context.Context, req *fleetv1.ApplyInventoryRequest) (*fleetv1.ApplyInventoryResponse, error) {
	machines, operators, err := inventoryFromProto(req)
	if err != nil {
		return nil, malformed(err)
	}
	bans, err := bansFromProto(req.GetBans())
	if err != nil {
		return nil, malformed(err)
	}
	c := callerOf(ctx)
	if c.role != fleet.RoleAdmin || len(operators) == 0 {
		operators = nil
	}
	changed, err := o.s.o.Registry.ApplyInventory(ctx, c.Path(), fleet.OperatorName(c.Name), machines, operators)
	if err != nil {
		return nil, err
	}
	o.s.cutOperators()
	if c.role == fleet.RoleAdmin {
		for _, b := range bans {
			if err := o.s.o.Registry.SeedBan(ctx, c.Path(), b.machine, b.reason, b.time); err != nil {
				return nil, err
			}
		}
	}
	return &fleetv1.ApplyInventoryResponse{Changed: changed}, nil
}

// CreateToken registers the hash of an enrolment token.
func (o *operatorService) CreateToken(ctx context.Context, req *fleetv1.CreateTokenRequest) (*fleetv1.CreateTokenResponse, error) {
	m, err := fleet.ParseMachineName(req.GetMachine())
	if err != nil {
		return nil, malformed(err)
	}
	expires, err := o.s.o.Enroller.CreateToken(ctx, callerOf(ctx).Path(), m, req.GetTokenHash(), time.Duration(req.GetTtlSeconds())*time.Second)
	if err != nil {
		return nil, err
	}
	return &fleetv1.CreateTokenResponse{Expires: timestamppb.New(expires)}, nil
}

// ListHostKeys returns what hosts sent at enrolment.
func (o *operatorService) ListHostKeys(context.Context, *fleetv1.ListHostKeysRequest) (*fleetv1.ListHostKeysResponse, error) {
	out := &fleetv1.ListHostKeysResponse{}
	for _, h := range o.s.o.Registry.Hosts() {
		if id := h.Identity; len(id.Keys) > 0 {
			out.Hosts = append(out.Hosts, &fleetv1.HostKeys{Machine: string(h.Name), Keys: id.Keys, Mac: id.MAC, TokenHash: id.TokenHash})
		}
	}
	return out, nil
}

// GetHead returns the head and the newest generation of every profile.
func (o *operatorService) GetHead(_ *fleetv1.GetHeadRequest, stream grpc.ServerStreamingServer[fleetv1.GetHeadResponse]) error {
	// The head first: a commit in between then fails as it should.
	first := &fleetv1.GetHeadResponse{Head: string(o.s.o.Publisher.Head()), Time: timeToProto(o.s.o.Now()), RootVersion: o.s.o.Publisher.Trust().Root().Version}
	if err := stream.Send(first); err != nil {
		return err
	}
	for _, g := range o.s.o.Publisher.Newest() {
		signed, err := o.s.signed(stream.Context(), g)
		if err != nil {
			return err
		}
		if err := stream.Send(&fleetv1.GetHeadResponse{Generation: signed}); err != nil {
			return err
		}
	}
	return nil
}

// StatBlob says how much of a blob is there.
func (o *operatorService) StatBlob(_ context.Context, req *fleetv1.StatBlobRequest) (*fleetv1.StatBlobResponse, error) {
	digest, err := fleet.ParseDigest(req.GetDigest())
	if err != nil {
		return nil, malformed(err)
	}
	st, err := o.s.o.Blobs.Stat(digest, req.GetSize())
	if err != nil {
		return nil, err
	}
	return &fleetv1.StatBlobResponse{Complete: st.Complete, Offset: st.Offset}, nil
}

// PutBlob takes an upload.
func (o *operatorService) PutBlob(stream grpc.ClientStreamingServer[fleetv1.PutBlobRequest, fleetv1.PutBlobResponse]) error {
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return malformed(errors.New("no blob was named"))
	}
	if err != nil {
		return err
	}
	digest, err := fleet.ParseDigest(first.GetDigest())
	if err != nil {
		return malformed(err)
	}
	ctx, release := o.s.untilStop(stream.Context())
	defer release()
	st, err := o.s.o.Blobs.Put(ctx, digest, first.GetSize(), first.GetOffset(),
		pace.NewReader(&upload{stream: stream, rest: first.GetData()}, o.s.o.TransferPace))
	if err != nil {
		return err
	}
	return stream.SendAndClose(&fleetv1.PutBlobResponse{Offset: st.Offset})
}

// upload reads the bytes of an upload.
type upload struct {
	stream grpc.ClientStreamingServer[fleetv1.PutBlobRequest, fleetv1.PutBlobResponse]
	rest   []byte
}

// Read reads on.
func (u *upload) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		m, err := u.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at the end, as a Reader says it too.
		}
		if len(m.GetData()) > blobChunk {
			return 0, malformed(fmt.Errorf("a piece of %d bytes, at most %d", len(m.GetData()), blobChunk))
		}
		u.rest = m.GetData()
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// Stage takes generations of a release in.
func (o *operatorService) Stage(stream grpc.ClientStreamingServer[fleetv1.StageRequest, fleetv1.StageResponse]) error {
	var stager *publish.Stager
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if stager == nil {
			id, err := fleet.ParseReleaseID(req.GetRelease())
			if err != nil {
				return malformed(err)
			}
			stager = o.s.o.Publisher.Stage(id)
		}
		// The first message may name the release only.
		if g := req.GetGeneration(); g != nil {
			if err := stager.Add(stream.Context(), g.GetGeneration(), g.GetSecrets()); err != nil {
				return err
			}
		}
	}
	if stager == nil {
		return malformed(errors.New("no release was named"))
	}
	count, err := stager.Close(stream.Context())
	if err != nil {
		return err
	}
	return stream.SendAndClose(&fleetv1.StageResponse{Count: uint32(count)}) //nolint:gosec // Bounded by what one call can stage.
}

// Commit makes a staged release the head and wakes its machines.
func (o *operatorService) Commit(ctx context.Context, req *fleetv1.CommitRequest) (*fleetv1.CommitResponse, error) {
	id, err := fleet.ParseReleaseID(req.GetRelease())
	if err != nil {
		return nil, malformed(err)
	}
	if len(req.GetRevision()) > maxText {
		return nil, malformed(errors.New("the revision is too long"))
	}
	machines, err := o.s.o.Publisher.Commit(ctx, publish.Commit{
		Actor: callerOf(ctx).Path(), Release: id, Expected: fleet.ReleaseID(req.GetExpectedHead()),
		Count: int(req.GetCount()), Revision: req.GetRevision(),
	})
	if err != nil {
		return nil, err
	}
	o.s.o.Registry.Wake(registry.WakeDesired, machines...)
	return &fleetv1.CommitResponse{}, nil
}

// RollBack sends a machine back.
func (o *operatorService) RollBack(ctx context.Context, req *fleetv1.RollBackRequest) (*fleetv1.RollBackResponse, error) {
	h, profile, err := o.subject(req.GetMachine(), req.GetProfile())
	if err != nil {
		return nil, err
	}
	// What the host refuses by now it would not go back to.
	status, _ := h.Observed.Profile(profile)
	confirmed := slices.DeleteFunc(slices.Clone(h.Observed.Confirmed[profile]), func(c fleet.Ref) bool {
		return slices.ContainsFunc(status.Refused, func(r fleet.Ref) bool { return r.Digest == c.Digest })
	})
	target, err := o.s.o.Publisher.RollBack(ctx, callerOf(ctx).Path(), h.Name, profile, confirmed)
	if err != nil {
		return nil, err
	}
	o.s.o.Registry.Wake(registry.WakeDesired, h.Name)
	return &fleetv1.RollBackResponse{Target: refToProto(target)}, nil
}

// subject finds a machine, and reads a profile of which none means system.
func (o *operatorService) subject(machine, profile string) (registry.Host, fleet.ProfileName, error) {
	m, err := fleet.ParseMachineName(machine)
	if err != nil {
		return registry.Host{}, "", malformed(err)
	}
	if profile == "" {
		profile = string(fleet.System)
	}
	p, err := fleet.ParseProfileName(profile)
	if err != nil {
		return registry.Host{}, "", malformed(err)
	}
	h, ok := o.s.o.Registry.Host(m)
	if !ok {
		return registry.Host{}, "", fmt.Errorf("%w: %s", registry.ErrUnknownMachine, m)
	}
	return h, p, nil
}

// Loosen keeps a loosening for its machine and wakes it.
func (o *operatorService) Loosen(ctx context.Context, req *fleetv1.LoosenRequest) (*fleetv1.LoosenResponse, error) {
	m, err := o.s.o.Publisher.Loosen(ctx, callerOf(ctx).Path(), req.GetDocument())
	if err != nil {
		return nil, err
	}
	o.s.o.Registry.Wake(registry.WakeDesired, m)
	return &fleetv1.LoosenResponse{}, nil
}

// Ban bans a machine, or lifts its ban.
func (o *operatorService) Ban(ctx context.Context, req *fleetv1.BanRequest) (*fleetv1.BanResponse, error) {
	m, err := fleet.ParseMachineName(req.GetMachine())
	if err != nil {
		return nil, malformed(err)
	}
	if n := len(req.GetReason()); n == 0 || n > maxText {
		return nil, malformed(fmt.Errorf("a reason is needed, of at most %d bytes", maxText))
	}
	actor := callerOf(ctx).Path()
	if req.GetLift() {
		if err := o.s.o.Registry.Unban(ctx, actor, m, req.GetReason()); err != nil {
			return nil, err
		}
		return &fleetv1.BanResponse{}, nil
	}
	cut, err := o.s.o.Registry.Ban(ctx, actor, m, req.GetReason())
	if err != nil {
		return nil, err
	}
	return &fleetv1.BanResponse{StreamsCut: uint32(cut)}, nil //nolint:gosec // At most one stream per machine.
}
