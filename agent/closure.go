package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// closuresDir is where verified closure manifests lie while a driver builds.
const closuresDir = "closures"

// buildPinned has a driver build, with the closure manifest where the source
// names one. Its signatures are verified here and not in the driver: the trust
// root is the agent's, and a driver, which may be a plugin, has no say in whom
// the host trusts.
func (w *worker) buildPinned(ctx context.Context, d driver.Driver, req driver.BuildRequest) (path string, err error) {
	ref := req.Source.Closure()
	if ref == nil {
		return d.Build(ctx, req, nil) //nolint:wrapcheck // It says what failed.
	}
	m, err := w.openClosure(*ref, req.Source.OutPath())
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("handing the closure manifest over: %w", err)
	}
	dir := filepath.Join(w.a.config.StateDir, closuresDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("handing the closure manifest over: %w", err)
	}
	req.Closure = filepath.Join(dir, w.profile.FileName())
	if err := os.WriteFile(req.Closure, data, 0o600); err != nil {
		return "", fmt.Errorf("handing the closure manifest over: %w", err)
	}
	defer func() {
		if rerr := os.Remove(req.Closure); rerr != nil {
			w.log.Warn("removing a closure manifest failed", "error", rerr)
		}
	}()
	return d.Build(ctx, req, nil) //nolint:wrapcheck // It says what failed.
}

// openClosure verifies the manifest by the trust root as it is now. One that is
// not signed as it must be, or of something else, is the source's own fault: the
// generation names it by digest.
func (w *worker) openClosure(ref fleet.BlobRef, root string) (*fleet.ClosureManifest, error) {
	f, err := os.Open(w.a.blobs.Path(ref.Digest))
	if err != nil {
		return nil, fmt.Errorf("reading closure manifest: %w", err)
	}
	defer func() { _ = f.Close() }()
	envelope, err := io.ReadAll(io.LimitReader(f, fleet.MaxClosureBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading closure manifest: %w", err)
	}
	signed, err := w.a.bound.Load().desired.Trust().OpenClosure(envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", driver.ErrSource, err)
	}
	if signed.Doc.Root != root {
		return nil, fmt.Errorf("%w: the closure manifest is of %s, and %s is pinned", driver.ErrSource, signed.Doc.Root, root)
	}
	return &signed.Doc, nil
}
