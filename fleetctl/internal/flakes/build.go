package flakes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/nix"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// built is one element of what "nix build --json" prints.
type built struct {
	DrvPath string            `json:"drvPath"`
	Outputs map[string]string `json:"outputs"`
}

// Build builds outputs that were evaluated, or fetches them from a cache.
// Errors wrap ErrBuild or ErrOutPath or are about nix itself.
func (n *Nix) Build(ctx context.Context, outputs []Output) error {
	if len(outputs) == 0 {
		return nil
	}
	args := []string{"build", "--json", "--no-link"}
	for _, o := range outputs {
		args = append(args, o.Drv+"^"+o.Name)
	}
	text, err := n.run(ctx, maxOutput, args...)
	if err != nil {
		if f := (*failed)(nil); errors.As(err, &f) && !errors.Is(err, ErrOldNix) {
			err = ui.WithHint(fmt.Errorf("%w: %w", ErrBuild, f), "nothing was published; mend it and publish again")
		}
		return fmt.Errorf("building: %w", err)
	}
	return checkBuilt(text, outputs)
}

// checkBuilt compares what nix says that it built with what was evaluated.
func checkBuilt(text []byte, outputs []Output) error {
	var list []built
	if err := strictjson.Unmarshal(text, maxOutput, &list); err != nil {
		return fmt.Errorf("building: %w: %w", ErrOutput, err)
	}
	got := map[string]string{}
	for _, b := range list {
		for name, path := range b.Outputs {
			got[b.DrvPath+"^"+name] = path
		}
	}
	for _, o := range outputs {
		if path := got[o.Drv+"^"+o.Name]; path != o.Path {
			return ui.WithHint(fmt.Errorf("building %s: %w: %.200q instead of %s", o.Drv, ErrOutPath, path, o.Path),
				"publish again; if it stays so, this machine's nix cannot be trusted")
		}
	}
	return nil
}

// Closure is what a store path needs, itself included, by path.
type Closure struct {
	Root  nix.PathInfo
	Paths []nix.PathInfo
}

// Closures asks the store for the closures of paths, in one process of nix.
// Errors wrap ErrNotInStore or are about nix itself.
func (n *Nix) Closures(ctx context.Context, roots []string) (map[string]Closure, error) {
	if len(roots) == 0 {
		return map[string]Closure{}, nil
	}
	text, err := n.run(ctx, nix.MaxPathInfoBytes, append([]string{"path-info", "--recursive", "--json"}, roots...)...)
	if f := (*failed)(nil); errors.As(err, &f) && f.has("is not valid") {
		err = notInStore(f)
	}
	if err != nil {
		return nil, fmt.Errorf("asking the store: %w", err)
	}
	infos, err := nix.DecodePathInfo(text)
	switch {
	case errors.Is(err, nix.ErrNotValid):
		return nil, fmt.Errorf("asking the store: %w", notInStore(err))
	case err != nil:
		return nil, fmt.Errorf("asking the store: %w: %w", ErrOutput, err)
	}
	return closures(infos, roots)
}

func notInStore(err error) error {
	return ui.WithHint(fmt.Errorf("%w: %w", ErrNotInStore, err), "build it or copy it here first (nix build, nix copy)")
}

// closures takes each root's own closure out of all of them together.
func closures(infos []nix.PathInfo, roots []string) (map[string]Closure, error) {
	byPath := make(map[string]nix.PathInfo, len(infos))
	for _, p := range infos {
		byPath[p.Path] = p
	}
	out := make(map[string]Closure, len(roots))
	for _, root := range roots {
		seen, todo := map[string]bool{root: true}, []string{root}
		var c Closure
		for len(todo) > 0 {
			path := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			p, ok := byPath[path]
			if !ok {
				return nil, fmt.Errorf("asking the store: %w: %s is missing in the closure of %s", ErrOutput, path, root)
			}
			c.Paths = append(c.Paths, p)
			for _, r := range p.References {
				if !seen[r] {
					seen[r] = true
					todo = append(todo, r)
				}
			}
		}
		slices.SortFunc(c.Paths, func(a, b nix.PathInfo) int { return strings.Compare(a.Path, b.Path) })
		c.Root = byPath[root]
		out[root] = c
	}
	return out, nil
}

// Manifest is what the builder role signs of a closure. It says nothing that
// changes from one publish to the next, so that an unchanged closure stays the
// same document: it is issued when its root came to be in this store.
func (c Closure) Manifest(id fleet.FleetID) *fleet.ClosureManifest {
	m := &fleet.ClosureManifest{Type: fleet.TypeClosure, Fleet: id, Issued: c.Root.Registered, Root: c.Root.Path}
	for _, p := range c.Paths {
		m.Paths = append(m.Paths, p.ClosurePath)
	}
	return m
}
