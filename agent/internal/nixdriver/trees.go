package nixdriver

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/contain"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// treesDir is a store for trees that are fetched anew. What is in there when
// nobody does was left by a crash.
const treesDir = "/nix/var/nix/fleet-trees"

// maxTrees bounds the trees that are looked at after one failure.
const maxTrees = 32

// treeNamed is a fetched tree, as nix names it with a position in it.
var treeNamed = regexp.MustCompile(storeDir + `/[0-9a-z]{32}-source\b`)

// buildFlake builds a flake. Nix writes its database durably and its store not:
// after a power loss in the midst of a build a tree may be valid and empty, and
// nothing says so but what it evaluates to. So what fails by its source's fault
// has its trees compared with the database first.
func (b *base) buildFlake(ctx context.Context, f fleet.FlakeSource, link string, said func(string), as *account) (string, error) {
	expr, err := expression(f)
	if err != nil {
		return "", err
	}
	build := func() (string, error) {
		return b.nixBuild(ctx, link, said, append(b.hookless(ctx), "--pure-eval", "--expr", expr)...)
	}
	if own := build; as != nil && !b.damage.any() { // Only root may repair.
		build = func() (string, error) {
			path, err := b.nixBuildAs(ctx, *as, link, said, expr)
			if err == nil || errors.Is(err, driver.ErrSource) || ctx.Err() != nil {
				return path, err
			}
			if errors.Is(err, contain.ErrNoUnit) || errors.Is(err, contain.ErrStuck) {
				return "", err // Nothing was tried yet.
			}
			// Such as where only root may read the repository. What is built is the same.
			said("as " + as.name + " that failed, and is done as root: " + err.Error())
			path, rerr := own()
			if rerr != nil {
				return "", fmt.Errorf("%w; as %s: %s", rerr, as.name, err.Error())
			}
			return path, nil
		}
	}
	path, err := build()
	if !errors.Is(err, driver.ErrSource) {
		return path, err
	}
	damaged := b.damagedTrees(ctx, f, err)
	if len(damaged) == 0 {
		return "", err
	}
	if merr := b.fetchAnew(ctx, f, damaged); merr != nil {
		// It is no fault of the source, so that it is tried again.
		return "", fmt.Errorf("%s of the source, damaged on this host: %w; before it came to that: %s", few(damaged), merr, err.Error())
	}
	said("fetched anew what was damaged: " + few(damaged))
	return build()
}

// damagedTrees are those of the trees that a build failed on which are not what
// was fetched once: the source's own, and what nix named.
func (b *base) damagedTrees(ctx context.Context, f fleet.FlakeSource, cause error) (damaged []string) {
	var trees []string
	if own, err := b.treeOf(ctx, f); err == nil {
		trees = append(trees, own)
	}
	if said := (*failure)(nil); errors.As(cause, &said) {
		for _, line := range said.lines {
			trees = append(trees, treeNamed.FindAllString(line, maxTrees)...)
		}
	}
	slices.Sort(trees)
	trees = slices.Compact(trees)
	for _, tree := range trees[:min(len(trees), maxTrees)] {
		// One that nix does not have is none that it could have lost.
		if _, err := b.nixStore(ctx, "--check-validity", tree); err == nil && b.isDamaged(ctx, tree) {
			damaged = append(damaged, tree)
		}
	}
	return damaged
}

// treeOf is where nix keeps the tree of a flake.
func (b *base) treeOf(ctx context.Context, f fleet.FlakeSource) (string, error) {
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(f.NarHash, "sha256-"))
	if err != nil {
		return "", fmt.Errorf("narHash: %w", err)
	}
	out, err := b.nixStore(ctx, "--print-fixed-path", "--recursive", "sha256", hex.EncodeToString(sum), "source")
	return strings.TrimSpace(string(out)), err
}

// isDamaged says whether nix finds that one path is not what its database has, or
// is gone, or can't be read.
func (b *base) isDamaged(ctx context.Context, path string) bool {
	damaged, err := b.compared(ctx, path)
	var f *failure
	return len(damaged) > 0 || errors.As(err, &f) && f.code >= 0
}

// fetchAnew fetches a flake with all its inputs into a store of its own, and has
// nix replace the damaged trees by what is there.
func (b *base) fetchAnew(ctx context.Context, f fleet.FlakeSource, damaged []string) (err error) {
	ref, err := reference(f)
	if err != nil {
		return err
	}
	dir := b.at(treesDir)
	if err := removeStore(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeStore(dir)) }()
	if _, err := b.run(ctx, nil, maxOutBytes, "flake", "archive", "--store", dir, ref); err != nil {
		return err
	}
	for _, tree := range damaged {
		if _, err := b.nixStore(ctx, "--repair-path", tree, "--option", "substituters", dir); err != nil {
			return err
		}
		if b.isDamaged(ctx, tree) {
			return fmt.Errorf("%s is still damaged", tree)
		}
	}
	return nil
}

// removeStore removes a store, whose directories nobody may write to.
func removeStore(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700) //nolint:gosec // Of a store that nobody uses any more.
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}
