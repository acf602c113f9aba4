package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/plugin/handshake"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// StateDir is the directory that a driver may keep things in, the built paths
// among them: absolute, made by the agent, open to other users' services and
// the same for all versions of the plugin. It is empty for a probe.
func StateDir() string { return os.Getenv(handshake.EnvState) }

// Config decodes the configuration of a source or probe into v; unknown keys,
// keys that are there twice, anything after it and more than
// fleet.MaxPluginConfigBytes are errors that wrap driver.ErrSource. An empty one
// leaves v as it is.
func Config(data []byte, v any) error {
	if len(data) == 0 {
		return nil
	}
	if err := strictjson.UnmarshalKnown(data, fleet.MaxPluginConfigBytes, v); err != nil {
		return fmt.Errorf("%w: reading config: %w", driver.ErrSource, err)
	}
	return nil
}

// Files returns the files that a build has to use, nil where the source has
// none.
func Files(req driver.BuildRequest) *fleet.BundleSource {
	if req.Source.External == nil {
		return nil
	}
	return req.Source.External.Files
}

// Unpack makes dir of the source's files, durable when it returns nil; an older
// dir is replaced. Nothing in them can reach outside of dir.
func Unpack(ctx context.Context, req driver.BuildRequest, dir string) (err error) {
	src := Files(req)
	if src == nil {
		return fmt.Errorf("%w: the source has no files", driver.ErrSource)
	}
	name, ok := req.Blobs[src.Digest]
	if !ok {
		return errors.New("the source's files were not fetched")
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("opening the source's files: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return bundle.Unpack(ctx, f, dir, *src, bundle.Limits{Plain: true}, nil)
}

// Verify compares dir with the source's files.
func Verify(ctx context.Context, req driver.BuildRequest, dir string) error {
	src := Files(req)
	if src == nil {
		return fmt.Errorf("%w: the source has no files", driver.ErrSource)
	}
	return bundle.Verify(ctx, dir, src.Digest, bundle.Limits{Plain: true})
}
