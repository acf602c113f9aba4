package nixdriver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// maxVerifyBytes bounds what a verification prints to standard output, which is
// nothing.
const maxVerifyBytes = 64 << 10

// damage remembers that something of the store is not what it was: until it is
// mended, builds repair.
type damage struct {
	mu    sync.Mutex
	paths map[string][]string // damaged paths by the path that needs them
}

func (d *damage) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.paths) > 0
}

func (d *damage) set(path string, damaged []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(damaged) == 0 {
		delete(d.paths, path)
		return
	}
	if d.paths == nil {
		d.paths = map[string][]string{}
	}
	d.paths[path] = damaged
}

func (d *damage) of(path string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.paths[path])
}

// modified is what nix says of a path whose content is not what its database
// has.
var modified = regexp.MustCompile(`path '(/nix/store/[^']+)' was modified`)

// compared has nix read paths and compare them with its database, and returns
// which differ: with an error, which may have other reasons too.
func (b *base) compared(ctx context.Context, paths ...string) (damaged []string, err error) {
	_, err = b.run(ctx, func(line string) {
		if m := modified.FindStringSubmatch(line); m != nil && !slices.Contains(damaged, m[1]) && len(damaged) < maxDamaged {
			damaged = append(damaged, m[1])
		}
	}, maxVerifyBytes, append([]string{"store", "verify", "--no-trust"}, paths...)...)
	return damaged, err
}

// Verify implements driver.Verifier: all contents of the closure are read and
// compared with Nix's database.
func (b *base) Verify(ctx context.Context, path string) error {
	damaged, err := b.compared(ctx, "--recursive", path)
	var f *failure
	switch {
	case err == nil:
		b.damage.set(path, nil)
		return nil
	case len(damaged) > 0:
		b.damage.set(path, damaged)
		return fmt.Errorf("%w: %d paths of %s are damaged: %s", driver.ErrNotBuilt, len(damaged), path, few(damaged))
	case errors.As(err, &f) && f.code >= 0:
		// Gone, or nothing can be read of it.
		b.damage.set(path, []string{path})
		return fmt.Errorf("%w: %w", driver.ErrNotBuilt, err)
	}
	return fmt.Errorf("verifying %s: %w", path, err)
}

// nixStore runs nix-store, which is beside nix.
func (b *base) nixStore(ctx context.Context, args ...string) ([]byte, error) {
	program, err := b.nix()
	if err != nil {
		return nil, err
	}
	return b.runProgram(ctx, filepath.Join(filepath.Dir(program), "nix-store"), nil, maxVerifyBytes, args...)
}

// Repair implements driver.Repairer: what Verify found damaged is substituted
// anew or built again from the derivation that made it.
func (b *base) Repair(ctx context.Context, path string) error {
	damaged := b.damage.of(path)
	var err error
	for _, p := range damaged {
		// One that can't be mended must not keep the others from it.
		_, err = b.nixStore(ctx, "--repair-path", p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if verr := b.Verify(ctx, path); verr != nil {
		return errors.Join(verr, err)
	}
	return atomicfile.SyncFS(b.at(storeDir), b.at(rootsDir))
}

const (
	maxDamaged = 1000
	maxNamed   = 3
)

func few(paths []string) string {
	if n := len(paths) - maxNamed; n > 0 {
		return strings.Join(paths[:maxNamed], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(paths, ", ")
}
