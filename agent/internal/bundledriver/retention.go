package bundledriver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// building knows which store paths are being made.
type building struct {
	mu    sync.Mutex               // guards paths
	paths map[string]chan struct{} // closed at the end
}

// try begins, or returns what to wait for.
func (b *building) try(path string) (busy <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.paths[path]; ok {
		return c
	}
	if b.paths == nil {
		b.paths = map[string]chan struct{}{}
	}
	b.paths[path] = make(chan struct{})
	return nil
}

// begin waits for others that make the same path: two profiles may have one
// source.
func (b *building) begin(ctx context.Context, path string) error {
	for {
		busy := b.try(path)
		if busy == nil {
			return nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (b *building) end(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.paths[path])
	delete(b.paths, path)
}

// Prune implements driver.Pruner.
func (d *Driver) Prune(ctx context.Context, keep []string) ([]string, error) {
	links, err := os.ReadDir(d.profiles())
	if err != nil {
		return nil, fmt.Errorf("pruning bundles: %w", err)
	}
	keep = slices.Clone(keep)
	for _, l := range links {
		target, err := os.Readlink(filepath.Join(d.profiles(), l.Name()))
		if err != nil {
			return nil, fmt.Errorf("pruning bundles: %w", err)
		}
		keep = append(keep, target)
	}
	entries, err := os.ReadDir(d.store())
	if err != nil {
		return nil, fmt.Errorf("pruning bundles: %w", err)
	}
	var removed []string
	for _, e := range entries {
		path := filepath.Join(d.store(), e.Name())
		if _, err := fleet.ParseDigest("sha256:" + e.Name()); err != nil || slices.Contains(keep, path) {
			continue
		}
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		if d.building.try(path) != nil {
			continue
		}
		err := d.remove(path)
		d.building.end(path)
		if err != nil {
			return removed, fmt.Errorf("pruning bundles: %w", err)
		}
		removed = append(removed, path)
	}
	return removed, nil
}

// remove takes the name away first, so that a crash leaves no half bundle
// under it.
func (d *Driver) remove(path string) error {
	tmp := filepath.Join(d.store(), bundle.TempPrefix+"pruned-"+filepath.Base(path))
	crashpoint.Hit(crashpoint.BundleRemove)
	if err := os.Rename(path, tmp); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BundleUnnamed)
	if err := atomicfile.SyncDir(d.store()); err != nil {
		return err
	}
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.BundleRemoved)
	return nil
}
