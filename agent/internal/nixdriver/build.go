package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// build makes a source ready: one nix process builds or substitutes it and makes
// it a root. What it returns is durable, so that the agent may say that it is
// staged.
//
// A flake is evaluated and built as a user where as is one; what that user's process
// says is looked at as anybody's.
func (b *base) build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress), program string, as *account) (path string, err error) {
	if req.Source.Driver != b.name {
		return "", fmt.Errorf("building: %w: source is for driver %q", driver.ErrSource, req.Source.Driver)
	}
	manifest, err := openManifest(req)
	if err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.config.BuildTimeout,
		fmt.Errorf("building took longer than %s", b.config.BuildTimeout))
	defer cancel()
	link := filepath.Join(b.at(rootsDir), "build-"+b.name+"-"+req.Profile.FileName())
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	if b.name == fleet.DriverHome {
		defer spare(link)()
	}
	said := func(line string) {
		if progress != nil {
			progress(driver.Progress{Message: line})
		}
	}
	path, err = b.realise(ctx, req.Source, link, said, as)
	if err != nil && ctx.Err() == nil {
		if old := b.tooOld(ctx); old != nil {
			err = old
		}
	}
	if err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	if err := b.accept(ctx, req.Source, manifest, path, program); err != nil {
		// What was refused needs no root.
		return "", errors.Join(fmt.Errorf("building: %w", err), atomicfile.Symlink("", link))
	}
	if b.name == fleet.DriverHome {
		letGo := spare(b.root(path))
		defer func() {
			if err != nil {
				letGo()
				return
			}
			spareBuilt(b.root(path)) // Only now: syncing may take a while.
		}()
	}
	if err := b.keep(path); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	if err := os.Remove(link); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	// Nix writes its database durably and its store not: after a power loss paths
	// would be valid and empty.
	if err := atomicfile.SyncFS(b.at(storeDir), b.at(rootsDir)); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	return path, nil
}

// realise has nix build or substitute the source, rooted by link. A pinned path
// that is here already is not evaluated again.
func (b *base) realise(ctx context.Context, source fleet.Source, link string, said func(string), as *account) (string, error) {
	if pinned := source.OutPath(); pinned != "" {
		_, err := os.Lstat(b.at(pinned))
		if source.StorePath != nil || err == nil && !b.damage.any() {
			path, err := b.nixBuild(ctx, link, said, pinned)
			if err == nil || source.StorePath != nil || ctx.Err() != nil {
				return path, err
			}
			// Here, and not valid: something that was interrupted.
		}
	}
	if source.Flake == nil {
		return "", fmt.Errorf("%w: it is neither a flake nor a store path", driver.ErrSource)
	}
	return b.buildFlake(ctx, *source.Flake, link, said, as)
}

func (b *base) nixBuild(ctx context.Context, link string, said func(string), what ...string) (string, error) {
	args := []string{"build", "--print-out-paths", "--out-link", link}
	if b.config.MaxJobs != "" {
		args = append(args, "--max-jobs", b.config.MaxJobs)
	}
	if b.damage.any() {
		args = append(args, "--repair")
	}
	out, err := b.run(ctx, said, maxOutBytes, append(args, what...)...)
	if err != nil {
		return "", judge(err)
	}
	path := strings.TrimSuffix(string(out), "\n")
	if err := fleet.ValidateStorePath(path); err != nil {
		return "", fmt.Errorf("%w: it has not one output but %.200q", driver.ErrSource, path)
	}
	return path, nil
}

// accept compares what was made with everything that the source pins, before
// anything of it may run.
func (b *base) accept(ctx context.Context, source fleet.Source, manifest *fleet.ClosureManifest, path, program string) error {
	if pinned := source.OutPath(); pinned != "" && path != pinned {
		return fmt.Errorf("%w: it gave %s, and %s is pinned", driver.ErrSource, path, pinned)
	}
	if manifest != nil {
		if err := b.compare(ctx, manifest); err != nil {
			return err
		}
	}
	if program != "" && !b.activates(path, program) {
		return fmt.Errorf("%w: %s has no program %s", driver.ErrSource, path, program)
	}
	return nil
}
