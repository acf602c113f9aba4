package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	driverv1 "github.com/cameronraysmith/fleet/proto/driver/v1"
)

// Serve registers d with s as version 1 of the contract.
func Serve(s grpc.ServiceRegistrar, d Driver) {
	driverv1.RegisterDriverServiceServer(s, &server{driver: d})
}

type server struct {
	driverv1.UnimplementedDriverServiceServer

	driver Driver
}

func (s *server) Current(ctx context.Context, req *driverv1.CurrentRequest) (*driverv1.CurrentResponse, error) {
	profile, err := fleet.ParseProfileName(req.GetProfile())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	path, err := s.driver.Current(ctx, profile)
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverv1.CurrentResponse{Path: path}, nil
}

func (s *server) Build(req *driverv1.BuildRequest, stream grpc.ServerStreamingServer[driverv1.BuildResponse]) error {
	r, err := buildRequest(req)
	if err != nil {
		return toStatus(err)
	}
	path, err := s.driver.Build(stream.Context(), r, func(p Progress) {
		// Where the reader is gone the build ends through its context.
		_ = stream.Send(&driverv1.BuildResponse{Message: clip(p.Message, maxProgressBytes), Done: p.Done, Total: p.Total})
	})
	if err != nil {
		return toStatus(err)
	}
	return stream.Send(&driverv1.BuildResponse{Path: path})
}

func (s *server) Diff(ctx context.Context, req *driverv1.DiffRequest) (*driverv1.DiffResponse, error) {
	profile, err := fleet.ParseProfileName(req.GetProfile())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	lines, err := s.driver.Diff(ctx, profile, req.GetFrom(), req.GetTo())
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverv1.DiffResponse{Lines: boundLines(lines)}, nil
}

func (s *server) Activation(ctx context.Context, req *driverv1.ActivationRequest) (*driverv1.ActivationResponse, error) {
	profile, err := fleet.ParseProfileName(req.GetProfile())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	a, err := s.driver.Activation(ctx, profile, req.GetFrom(), req.GetTo())
	if err != nil {
		return nil, toStatus(err)
	}
	return activationToProto(a), nil
}

func (s *server) Prune(ctx context.Context, req *driverv1.PruneRequest) (*driverv1.PruneResponse, error) {
	p, ok := s.driver.(Pruner)
	if !ok {
		return nil, toStatus(ErrUnsupported)
	}
	removed, err := p.Prune(ctx, req.GetKeep())
	if err != nil {
		return nil, toStatus(err)
	}
	return &driverv1.PruneResponse{Removed: removed}, nil
}

func buildRequest(req *driverv1.BuildRequest) (BuildRequest, error) {
	profile, err := fleet.ParseProfileName(req.GetProfile())
	if err != nil {
		return BuildRequest{}, fmt.Errorf("%w: %w", ErrSource, err)
	}
	r := BuildRequest{Profile: profile, Blobs: make(map[fleet.Digest]string, len(req.GetBlobs()))}
	if err := strictjson.Unmarshal(req.GetSource(), fleet.MaxDocumentBytes, &r.Source); err != nil {
		return BuildRequest{}, fmt.Errorf("%w: reading source: %w", ErrSource, err)
	}
	// A driver may rely on it, whoever calls.
	if err := r.Source.Validate(); err != nil {
		return BuildRequest{}, fmt.Errorf("%w: %w", ErrSource, err)
	}
	for d, file := range req.GetBlobs() {
		digest, err := fleet.ParseDigest(d)
		if err != nil {
			return BuildRequest{}, fmt.Errorf("%w: %w", ErrSource, err)
		}
		if !filepath.IsAbs(file) {
			return BuildRequest{}, fmt.Errorf("%w: blob file %q: want an absolute path", ErrSource, file)
		}
		r.Blobs[digest] = file
	}
	if r.Closure = req.GetClosure(); r.Closure != "" && !filepath.IsAbs(r.Closure) {
		return BuildRequest{}, fmt.Errorf("%w: closure file %q: want an absolute path", ErrSource, r.Closure)
	}
	return r, nil
}

func buildRequestToProto(req BuildRequest) (*driverv1.BuildRequest, error) {
	source, err := json.Marshal(req.Source)
	if err != nil {
		return nil, fmt.Errorf("writing source: %w", err)
	}
	p := &driverv1.BuildRequest{Profile: string(req.Profile), Source: source, Closure: req.Closure, Blobs: make(map[string]string, len(req.Blobs))}
	for d, file := range req.Blobs {
		p.Blobs[string(d)] = file
	}
	return p, nil
}

// toStatus carries the sentinels over the wire as codes.
func toStatus(err error) error {
	code := codes.Unknown
	switch {
	case errors.Is(err, ErrSource):
		code = codes.InvalidArgument
	case errors.Is(err, ErrNotBuilt):
		code = codes.FailedPrecondition
	case errors.Is(err, ErrUnsupported):
		code = codes.Unimplemented
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, clip(err.Error(), maxErrorBytes))
}
