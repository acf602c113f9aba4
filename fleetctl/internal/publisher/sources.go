package publisher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/flakes"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// pinned is a source of Nix that can't change any longer.
type pinned struct {
	source fleet.Source
	// closure is the manifest, where there is one.
	closure *blob
	// unbuilt says that a publish would build it, and this dry run did not.
	unbuilt bool
}

// pinner pins the sources of a request that need Nix.
type pinner struct {
	p   *Publisher
	t   *release.Trust
	req Request
	// locked flakes by reference.
	locked map[string]flakes.Locked
	// presumed are those that git told, to be confirmed by their evaluation.
	presumed map[string]*flakes.Presumed
	outputs  map[flakes.Attr]flakes.Output
	// builders sign closure manifests; opened when first needed.
	builders []release.Signer
}

// pinSources locks, evaluates and builds what the targets need of Nix, each
// thing once for all machines. Bundles are pinned when the release is planned. It
// tells the repository's revision, which it asks for while nix works.
func (p *Publisher) pinSources(ctx context.Context, t *release.Trust, req Request) (pins map[inventory.Source]pinned, revision string, err error) {
	var sources []inventory.Source
	for _, target := range req.Targets {
		s := target.Source
		if s.Bundle == "" && !s.IsExternal() && !req.Refresh && !slices.Contains(sources, s) {
			sources = append(sources, s)
		}
	}
	if len(sources) == 0 {
		return nil, req.Revision(), nil
	}
	b := &pinner{p: p, t: t, req: req, locked: map[string]flakes.Locked{}, presumed: map[string]*flakes.Presumed{}}
	defer func() {
		for _, presumed := range b.presumed {
			presumed.Clean() // What git still does must not outlive this.
		}
	}()
	if err := b.lock(ctx, sources); err != nil {
		return nil, "", err
	}
	told := sync.OnceValue(req.Revision)
	time.AfterFunc(flakes.NixFirst, func() { told() })
	defer func() { revision = told() }() // It ends with this.
	if err := b.evaluate(ctx, sources); err != nil {
		return nil, "", err
	}
	if err := b.build(ctx, sources); err != nil {
		return nil, "", err
	}
	pins, err = b.pin(ctx, sources)
	return pins, "", err
}

// builds says whether the publisher builds a flake.
func (b *pinner) builds(s inventory.Source) bool {
	return s.Flake != "" && (s.Build || b.req.Build)
}

// lock finds what each flake is now. Nix is not asked where git can tell: its
// process would cost as much as the evaluation, which says the rest.
func (b *pinner) lock(ctx context.Context, sources []inventory.Source) error {
	for _, s := range sources {
		if _, done := b.locked[s.Flake]; done || s.Flake == "" {
			continue
		}
		if !b.req.NoEval {
			if p := b.p.Nix.Presume(ctx, s.Flake); p != nil {
				b.presumed[s.Flake], b.locked[s.Flake] = p, p.Locked
				continue
			}
		}
		l, err := b.p.Nix.Lock(ctx, s.Flake)
		if err != nil {
			return err
		}
		b.locked[s.Flake] = l
	}
	return nil
}

func (b *pinner) attr(s inventory.Source) flakes.Attr {
	return flakes.Attr{Flake: b.locked[s.Flake], Path: s.Attr}
}

func (b *pinner) evaluate(ctx context.Context, sources []inventory.Source) error {
	for _, s := range sources {
		if b.req.NoEval && b.builds(s) {
			return ui.WithHint(fmt.Errorf("%s: %w", s.Attr, ErrBuildUnevaluated), "leave --no-eval out, or build: true in fleet.yaml")
		}
	}
	err := b.evaluateLocked(ctx, sources)
	moved, lockErr := b.confirm(ctx, err)
	if lockErr != nil {
		return lockErr
	}
	if moved {
		err = b.evaluateLocked(ctx, sources)
	}
	if err != nil {
		return err
	}
	warned := map[string]bool{}
	for _, s := range sources {
		l := b.locked[s.Flake]
		if !l.Local || s.URL != "" || warned[l.URL] {
			continue
		}
		warned[l.URL] = true
		b.p.Reporter.Warn(fmt.Sprintf("hosts are told to fetch %s, which is a path of this machine: "+
			"set source.url in fleet.yaml to where they reach the same revision", l.URL))
	}
	return nil
}

func (b *pinner) evaluateLocked(ctx context.Context, sources []inventory.Source) error {
	var attrs []flakes.Attr
	for _, s := range sources {
		if a := b.attr(s); s.Flake != "" && !b.req.NoEval && !slices.Contains(attrs, a) {
			attrs = append(attrs, a)
		}
	}
	var err error
	b.outputs, err = b.p.Nix.Evaluate(ctx, attrs)
	return err
}

// confirm checks what was presumed against its working tree and its evaluation,
// which ended with evalErr. Where they say something else, nix is asked after
// all, whose word counts; moved says that it gave another answer.
func (b *pinner) confirm(ctx context.Context, evalErr error) (moved bool, err error) {
	hashed := map[flakes.Locked]bool{}
	for attr, o := range b.outputs {
		hashed[attr.Flake] = o.NarHash != ""
	}
	for ref, p := range b.presumed {
		if p.Clean() && evalErr == nil && hashed[p.Locked] {
			continue
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		l, err := b.p.Nix.Lock(ctx, ref)
		if err != nil {
			return false, err
		}
		b.locked[ref] = l
		moved = moved || l.URL != p.URL || evalErr == nil
	}
	return moved, nil
}

func (b *pinner) build(ctx context.Context, sources []inventory.Source) error {
	if b.req.DryRun {
		return nil
	}
	var outputs []flakes.Output
	for _, s := range sources {
		if o := b.outputs[b.attr(s)]; b.builds(s) && !slices.Contains(outputs, o) {
			outputs = append(outputs, o)
		}
	}
	if len(outputs) == 0 {
		return nil
	}
	// Before the work: without keys all of it would be for nothing.
	if err := b.openBuilders(); err != nil {
		return err
	}
	// Some nix writes the last derivations when it ends.
	if err := b.p.Nix.Ended(); err != nil {
		return err
	}
	return b.p.Nix.Build(ctx, outputs)
}

// openBuilders opens the keys that sign closure manifests.
func (b *pinner) openBuilders() error {
	if b.builders != nil {
		return nil
	}
	if b.t.Root().Roles[release.RoleBuilder].Threshold == 0 {
		return ui.WithHint(ErrNoBuilder, "add a key for the role builder to the trust root; flakes that hosts build themselves need none")
	}
	var err error
	b.builders, err = b.p.Repo.Signers(b.t, release.RoleBuilder, b.p.Keys)
	return err
}

// pin makes the sources that get signed, and their closure manifests.
func (b *pinner) pin(ctx context.Context, sources []inventory.Source) (map[inventory.Source]pinned, error) {
	out := make(map[inventory.Source]pinned, len(sources))
	roots := map[inventory.Source]string{}
	var paths []string
	for _, s := range sources {
		pin, root, err := b.source(s)
		if err != nil {
			return nil, err
		}
		out[s] = pin
		if root != "" {
			roots[s] = root
			paths = append(paths, root)
		}
	}
	if len(paths) > 0 { // Their closures are signed.
		if err := b.p.Nix.Ended(); err != nil {
			return nil, err
		}
	}
	slices.Sort(paths)
	closures, err := b.p.Nix.Closures(ctx, slices.Compact(paths))
	if err != nil {
		return nil, err
	}
	byRoot := map[string]*blob{}
	for s, root := range roots {
		if byRoot[root] == nil {
			if byRoot[root], err = b.manifest(closures[root]); err != nil {
				return nil, err
			}
		}
		pin := out[s]
		pin.closure = byRoot[root]
		if pin.source.Flake != nil {
			pin.source.Flake.Closure = &pin.closure.ref
		} else {
			pin.source.StorePath.Closure = pin.closure.ref
		}
		out[s] = pin
	}
	return out, nil
}

// source is a source before its closure is known; root is what to ask the
// store for.
func (b *pinner) source(s inventory.Source) (pin pinned, root string, err error) {
	pin.source.Driver = s.Driver
	if s.StorePath != "" {
		path, err := storePath(s.StorePath)
		if err != nil {
			return pin, "", err
		}
		pin.source.StorePath = &fleet.StorePathSource{Path: path}
		return pin, path, nil
	}
	l := b.locked[s.Flake]
	o := b.outputs[b.attr(s)]
	f := &fleet.FlakeSource{URL: l.URL, NarHash: l.NarHash, Attr: s.Attr, OutPath: o.Path}
	if f.NarHash == "" { // git told the rest
		f.NarHash = o.NarHash
	}
	if s.URL != "" {
		if f.URL, err = l.At(s.URL); err != nil {
			return pin, "", err
		}
	}
	pin.source.Flake = f
	switch {
	case b.builds(s) && b.req.DryRun:
		pin.unbuilt = true
	case b.builds(s):
		root = f.OutPath
	}
	return pin, root, nil
}

// maxLinks bounds the links from one to the next to a store path.
const maxLinks = 8

// storePath follows links to a store path, which the file system need not have:
// that is for nix to say.
func storePath(path string) (string, error) {
	at := path
	for range maxLinks {
		if fleet.ValidateStorePath(at) == nil {
			return at, nil
		}
		to, err := os.Readlink(at)
		if err != nil {
			return "", ui.WithHint(fmt.Errorf("source.storePath %s: %w: %w", path, flakes.ErrNotInStore, err),
				"write /nix/store/HASH-NAME, or a link to it such as nix build makes")
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(at), to)
		}
		at = to
	}
	return "", ui.WithHint(fmt.Errorf("source.storePath %s: %w: too many links", path, flakes.ErrNotInStore), "write /nix/store/HASH-NAME")
}

// manifest signs a closure, and opens it as a host would. Where signing it again
// gives the same, that is done when it is uploaded: those of a large fleet are
// too many to be kept.
func (b *pinner) manifest(c flakes.Closure) (*blob, error) {
	if err := b.openBuilders(); err != nil {
		return nil, err
	}
	env, err := b.seal(c)
	if err != nil {
		return nil, err
	}
	ref := fleet.BlobRef{Digest: fleet.DigestOf(env), Size: uint64(len(env))}
	var kept []byte
	if !b.deterministic() {
		kept = env
	}
	return &blob{
		ref: ref, name: "closure of " + c.Root.Path,
		open: func() (source, error) {
			if kept != nil {
				return memory{bytes.NewReader(kept)}, nil
			}
			again, err := b.seal(c)
			if err == nil && fleet.DigestOf(again) != ref.Digest {
				err = errors.New("signing it again gave another document")
			}
			if err != nil {
				return nil, err
			}
			return memory{bytes.NewReader(again)}, nil
		},
	}, nil
}

// deterministic says whether signing again gives the same signatures: a security
// key counts them.
func (b *pinner) deterministic() bool {
	return !slices.ContainsFunc(b.builders, func(s release.Signer) bool {
		return b.t.Root().Keys[s.KeyID()].Scheme != "ed25519"
	})
}

func (b *pinner) seal(c flakes.Closure) ([]byte, error) {
	m := c.Manifest(b.p.Fleet)
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("closure of %s: %w", c.Root.Path, err)
	}
	env, _, err := release.Seal(fleet.TypeClosure, m, b.builders...)
	if err == nil {
		_, err = b.t.OpenClosure(env)
	}
	if err != nil {
		return nil, fmt.Errorf("closure of %s: %w", c.Root.Path, err)
	}
	return env, nil
}

// oldClosure is a manifest published before: it is made again only if the
// coordinator lost it, and where this machine's store still has the closure.
func (b *builder) oldClosure(ctx context.Context, root string, ref fleet.BlobRef) blob {
	return blob{ref: ref, name: "closure of " + root, open: func() (source, error) {
		gone := ui.WithHint(fmt.Errorf("closure of %s: %w: the coordinator does not have its manifest, and this machine cannot make the same again", root, ErrSourceGone),
			"publish without --refresh")
		closures, err := b.p.Nix.Closures(ctx, []string{root})
		if err != nil {
			return nil, errors.Join(gone, err)
		}
		made, err := (&pinner{p: b.p, t: b.t}).manifest(closures[root])
		if err != nil {
			return nil, errors.Join(gone, err)
		}
		if made.ref != ref {
			return nil, gone
		}
		return made.open()
	}}
}

// sameSource says whether two sources are the same thing to a host: another
// revision of a flake that evaluates to the same path is.
func sameSource(a, b fleet.Source) bool {
	if a.Driver != b.Driver || a.OutPath() != b.OutPath() {
		return false
	}
	if a.OutPath() == "" {
		return slices.Equal(a.Blobs(), b.Blobs()) && sameFlake(a.Flake, b.Flake)
	}
	return slices.Equal(a.Blobs(), b.Blobs())
}

func sameFlake(a, b *fleet.FlakeSource) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.NarHash == b.NarHash && a.Attr == b.Attr
}
