package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// errNoManifest says that the agent did not hand the closure manifest over.
var errNoManifest = errors.New("its closure manifest was not handed over")

// openManifest reads the manifest that the agent verified; nil where the source
// has none.
func openManifest(req driver.BuildRequest) (*fleet.ClosureManifest, error) {
	if req.Source.Closure() == nil {
		return nil, nil //nolint:nilnil // None is an answer.
	}
	if req.Closure == "" {
		return nil, errNoManifest
	}
	data, err := atomicfile.ReadAtMost(req.Closure, fleet.MaxClosureBytes)
	if err != nil {
		return nil, fmt.Errorf("reading closure manifest: %w", err)
	}
	var m fleet.ClosureManifest
	if err := strictjson.Unmarshal(data, fleet.MaxClosureBytes, &m); err != nil {
		return nil, fmt.Errorf("reading closure manifest: %w", err)
	}
	if m.Root != req.Source.OutPath() {
		return nil, fmt.Errorf("%w: its closure manifest is of %s, and %s is pinned", driver.ErrSource, m.Root, req.Source.OutPath())
	}
	return &m, nil
}

// compare has Nix's database say what is in the closure and compares it with
// the manifest, path by path. Nix checks contents against its database when it
// adds a path, so that what is equal here has the content that was signed.
func (b *base) compare(ctx context.Context, m *fleet.ClosureManifest) error {
	out, err := b.run(ctx, nil, nix.MaxPathInfoBytes, "path-info", "--json", "--recursive", m.Root)
	if err != nil {
		return fmt.Errorf("comparing the closure: %w", err)
	}
	have, err := nix.DecodePathInfo(out)
	if err != nil {
		return fmt.Errorf("comparing the closure: %w", err)
	}
	return difference(m, have)
}

// difference is an error that wraps driver.ErrSource at the first path that is
// not as pinned.
func difference(m *fleet.ClosureManifest, have []nix.PathInfo) error {
	pinned := make(map[string]*fleet.ClosurePath, len(m.Paths))
	for i := range m.Paths {
		pinned[m.Paths[i].Path] = &m.Paths[i]
	}
	for _, h := range have {
		p := pinned[h.Path]
		switch {
		case p == nil:
			return fmt.Errorf("%w: %s is in the closure, and not in its manifest", driver.ErrSource, h.Path)
		case h.NarHash != p.NarHash || h.NarSize != p.NarSize:
			return fmt.Errorf("%w: %s here is %s (%d bytes), and the closure manifest has %s (%d bytes): "+
				"a cache gave something else, or it was built here and does not come out the same",
				driver.ErrSource, h.Path, h.NarHash, h.NarSize, p.NarHash, p.NarSize)
		case !slices.Equal(h.References, p.References):
			return fmt.Errorf("%w: %s here has other references than in the closure manifest", driver.ErrSource, h.Path)
		}
		delete(pinned, h.Path)
	}
	for path := range pinned {
		return fmt.Errorf("%w: %s is in the closure manifest, and not in the closure", driver.ErrSource, path)
	}
	return nil
}
