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
func (b *base) build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress), program string) (string, error) {
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
	said := func(line string) {
		if progress != nil {
			progress(driver.Progress{Message: line})
		}
	}
	made, err := b.realise(ctx, req.Source, link, said)
	if err != nil && ctx.Err() == nil {
		if old := b.tooOld(ctx); old != nil {
			err = old
		}
	}
	if err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	err = b.accept(ctx, req.Source, manifest, made.path, program)
	unflushed := <-made.flushed
	if err != nil {
		// What was refused needs no root.
		return "", errors.Join(fmt.Errorf("building: %w", err), atomicfile.Symlink("", link))
	}
	if unflushed != nil {
		return "", fmt.Errorf("building: %w", unflushed)
	}
	if err := b.keep(made.path); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	if err := os.Remove(link); err != nil {
		return "", fmt.Errorf("building: %w", err)
	}
	return made.path, nil
}

// made is what nix built.
type made struct {
	path string
	// flushed says, once, that it is durable.
	flushed <-chan error
}

// flush makes what nix wrote durable: its database it writes durably and its store
// not, and after a power loss paths would be valid and empty.
func (b *base) flush() <-chan error {
	done := make(chan error, 1)
	go func() { done <- atomicfile.SyncFS(b.at(storeDir), b.at(rootsDir)) }()
	return done
}

// realise has nix build or substitute the source, rooted by link. A pinned path
// that is here already is not evaluated again.
func (b *base) realise(ctx context.Context, source fleet.Source, link string, said func(string)) (made, error) {
	if pinned := source.OutPath(); pinned != "" {
		_, err := os.Lstat(b.at(pinned))
		if source.StorePath != nil || err == nil && !b.damage.any() {
			m, err := b.nixBuild(ctx, link, said, pinned)
			if err == nil || source.StorePath != nil || ctx.Err() != nil {
				return m, err
			}
			// Here, and not valid: something that was interrupted.
		}
	}
	if source.Flake == nil {
		return made{}, fmt.Errorf("%w: it is neither a flake nor a store path", driver.ErrSource)
	}
	return b.buildFlake(ctx, *source.Flake, link, said)
}

// nixBuild runs nix build. All is in the store when nix prints the path, and ending
// takes it a while yet: meanwhile that is made durable.
func (b *base) nixBuild(ctx context.Context, link string, said func(string), what ...string) (m made, err error) {
	args := []string{"build", "--print-out-paths", "--out-link", link}
	if b.config.MaxJobs != "" {
		args = append(args, "--max-jobs", b.config.MaxJobs)
	}
	if b.damage.any() {
		args = append(args, "--repair")
	}
	program, err := b.nix()
	if err != nil {
		return made{}, err
	}
	out, err := b.runProgram(ctx, program, outputs{
		said: said, most: maxOutBytes, printed: func() { m.flushed = b.flush() },
	}, append(args, what...)...)
	m.path = strings.TrimSuffix(string(out), "\n")
	switch {
	case err != nil:
		err = judge(err)
	case fleet.ValidateStorePath(m.path) != nil:
		err = fmt.Errorf("%w: it has not one output but %.200q", driver.ErrSource, m.path)
	case m.flushed == nil:
		m.flushed = b.flush() // It printed no end of the line.
	}
	if err != nil && m.flushed != nil {
		err = errors.Join(err, <-m.flushed) // It ends with this.
	}
	return m, err
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
	if program != "" && !executable(filepath.Join(b.at(path), program)) {
		return fmt.Errorf("%w: %s has no program %s", driver.ErrSource, path, program)
	}
	return nil
}
