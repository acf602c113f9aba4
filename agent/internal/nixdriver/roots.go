package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// root is the link that keeps a path from garbage collection. All links below
// Nix's directory of roots are roots (nix-store --gc --print-roots shows them).
func (b *base) root(path string) string {
	return filepath.Join(b.at(rootsDir), filepath.Base(path))
}

// keep makes a path a root.
func (b *base) keep(path string) error { return atomicfile.Symlink(path, b.root(path)) }

// Prune removes the roots of paths that are not kept; Nix's garbage collection
// takes the rest. The drivers share the roots, and are asked with what all
// profiles keep.
func (b *base) Prune(ctx context.Context, keep []string) ([]string, error) {
	entries, err := os.ReadDir(b.at(rootsDir))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pruning roots: %w", err)
	}
	var removed []string
	for _, e := range entries {
		path := filepath.Join(storeDir, e.Name())
		if e.Type()&os.ModeSymlink == 0 || slices.Contains(keep, path) || strings.HasPrefix(e.Name(), currentPrefix) {
			continue
		}
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		// Also what a build left that was cut short: none is under way now but of homes.
		gone, err := removeRoot(filepath.Join(b.at(rootsDir), e.Name()))
		if err != nil {
			return removed, fmt.Errorf("pruning roots: %w", err)
		}
		if gone && fleet.ValidateStorePath(path) == nil {
			removed = append(removed, path)
		}
	}
	return removed, nil
}
