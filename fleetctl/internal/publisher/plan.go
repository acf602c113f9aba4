package publisher

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// plan is what a release consists of, before anything is signed or written.
type plan struct {
	id     fleet.ReleaseID
	issued time.Time
	items  []item
	blobs  map[fleet.Digest]blob
}

// item is one generation.
type item struct {
	gen fleet.Generation
	// highest is what it follows.
	highest  fleet.Ref
	manifest *fleet.SecretsManifest
	// fresh are new ciphertexts to be written to the repository.
	fresh []freshSecret
	same  bool
	// unbuilt is pinned.unbuilt.
	unbuilt bool

	// Set by signing.
	digest fleet.Digest
	env    client.Envelopes
}

// blob is something that the coordinator must have before Commit.
type blob struct {
	ref fleet.BlobRef
	// name is for people.
	name string
	// open returns the content, which must be checked against ref.
	open func() (source, error)
}

// source is a blob's content.
type source interface {
	io.ReaderAt
	io.Closer
}

func (it *item) result() Generation {
	g := Generation{
		Machine: it.gen.Machine, Profile: it.gen.Profile, Number: it.gen.Number, Digest: it.digest,
		Source: it.gen.Source, Expires: it.gen.Expires, SecretsChanged: len(it.fresh), Same: it.same, Unbuilt: it.unbuilt,
	}
	if it.manifest != nil {
		g.Secrets = len(it.manifest.Entries)
	}
	return g
}

// plan decides what the release consists of. It reads sources and secrets and
// changes nothing.
func (p *Publisher) plan(ctx context.Context, t *release.Trust, h *history, pins map[inventory.Source]pinned, req Request) (*plan, error) {
	now := p.Now().UTC().Truncate(time.Second)
	id, err := newReleaseID(now)
	if err != nil {
		return nil, err
	}
	pl := &plan{id: id, issued: now, blobs: map[fleet.Digest]blob{}}
	recipients, err := p.Repo.Recipients()
	if err != nil {
		return nil, err
	}
	b := &builder{
		p: p, t: t, h: h, pl: pl, pins: pins, recipients: recipients,
		bundles: map[string]fleet.BundleSource{}, plain: map[string][]byte{}, executables: map[string]fleet.BlobRef{},
	}
	for _, target := range req.Targets {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		prepare := b.fresh
		if req.Refresh {
			prepare = b.again
		}
		it, err := prepare(ctx, target)
		if err != nil {
			return nil, fmt.Errorf("preparing %s: %w", target.name(), err)
		}
		pl.items = append(pl.items, *it)
	}
	return pl, nil
}

// newReleaseID names a release by its time, so that names sort, and 24 random
// bits.
func newReleaseID(now time.Time) (fleet.ReleaseID, error) {
	var b [3]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("naming the release: %w", err)
	}
	return fleet.ReleaseID("r" + now.Format("20060102-150405") + "-" + hex.EncodeToString(b[:])), nil
}

// builder makes the items of a plan; what several machines share it looks at
// once.
type builder struct {
	p          *Publisher
	t          *release.Trust
	h          *history
	pl         *plan
	pins       map[inventory.Source]pinned
	recipients []string
	bundles    map[string]fleet.BundleSource
	// executables of plugins, by file.
	executables map[string]fleet.BlobRef
	plain       map[string][]byte
}

// begin numbers a new generation.
func (b *builder) begin(target Target, gen fleet.Generation) (*item, error) {
	s := subject{target.Machine, target.Profile}
	number, err := b.h.next(s, b.t.Root().Epoch)
	if err != nil {
		return nil, err
	}
	expiry := target.Expiry
	if expiry == 0 {
		expiry = fleet.DefaultExpiry
	}
	gen.Type, gen.Fleet = fleet.TypeGeneration, b.p.Fleet
	gen.Machine, gen.Profile = target.Machine, target.Profile
	gen.Number, gen.Release = number, b.pl.id
	gen.Issued, gen.Expires = b.pl.issued, b.pl.issued.Add(expiry)
	gen.RevertTo, gen.Reach = b.h.revertTo(s), target.Reach
	gen.Critical = criticalRules(gen)
	return &item{gen: gen, highest: b.h.of(s).highest}, nil
}

// criticalRules lists, with what is listed already, the rules of a policy that an agent
// that does not know them must not skip.
func criticalRules(gen fleet.Generation) []string {
	rules := slices.Clone(gen.Critical)
	add := func(asked bool, rule string) {
		if asked && !slices.Contains(rules, rule) {
			rules = append(rules, rule)
		}
	}
	add(gen.Policy.Freshness != 0, "policy.freshness")
	add(!gen.Policy.Console.IsZero(), fleet.CriticalConsole)
	return rules
}

// fresh pins what the fleet file says now.
func (b *builder) fresh(_ context.Context, target Target) (*item, error) {
	pin, err := b.pin(target.Source)
	if err != nil {
		return nil, err
	}
	gen := fleet.Generation{Source: pin.source, Probes: target.Probes, Policy: target.Policy}
	if err := b.pinPlugins(target.Plugins, &gen); err != nil {
		return nil, err
	}
	it, err := b.begin(target, gen)
	if err != nil {
		return nil, err
	}
	it.unbuilt = pin.unbuilt
	entries, err := b.secrets(target, it)
	if err != nil {
		return nil, err
	}
	return it, b.finish(it, entries)
}

// pin is the pinned form of a source.
func (b *builder) pin(s inventory.Source) (pinned, error) {
	if s.IsExternal() {
		src, err := b.external(s)
		return pinned{source: src}, err
	}
	if s.Bundle != "" {
		src, err := b.bundle(s.Bundle)
		return pinned{source: fleet.Source{Driver: s.Driver, Bundle: &src}}, err
	}
	pin := b.pins[s]
	if pin.closure != nil {
		b.pl.blobs[pin.closure.ref.Digest] = *pin.closure
	}
	return pin, nil
}

// bundle packs a directory, once, to learn its digest.
func (b *builder) bundle(dir string) (fleet.BundleSource, error) {
	src, ok := b.bundles[dir]
	if ok {
		return src, nil
	}
	src, err := bundle.Digest(dir)
	if err != nil {
		return src, ui.WithHint(err, `a bundle is a directory with an executable "activate"`)
	}
	b.bundles[dir] = src
	b.pl.blobs[src.Digest] = bundleBlob(dir, src)
	return src, nil
}

// bundleBlob packs the directory again when it is needed: most times the
// coordinator has it already.
func bundleBlob(dir string, src fleet.BundleSource) blob {
	return blob{
		ref: fleet.BlobRef(src), name: dir,
		open: func() (source, error) { return openPacked(dir, src, bundle.Pack) },
	}
}

// openPacked packs a directory into a file without a name.
func openPacked(dir string, src fleet.BundleSource, pack func(string, io.Writer) (fleet.BundleSource, error)) (_ source, err error) {
	f, err := nameless(os.TempDir())
	if err != nil {
		return nil, err
	}
	got, err := pack(dir, f)
	if err == nil && got != src {
		err = bundle.ErrChanged
	}
	if err != nil {
		return nil, errors.Join(ui.WithHint(fmt.Errorf("packing %s: %w", dir, err), "leave it alone and publish again"), f.Close())
	}
	return f, nil
}

// again signs anew what was published last.
func (b *builder) again(ctx context.Context, target Target) (*item, error) {
	old := b.h.of(subject{target.Machine, target.Profile})
	if len(old.committed) == 0 {
		return nil, ui.WithHint(ErrNeverPublished, "publish it without --refresh first")
	}
	gen, before, err := newest(old)
	if err != nil {
		return nil, err
	}
	if err := b.mayRepeat(target, gen); err != nil {
		return nil, err
	}
	it, err := b.begin(target, fleet.Generation{
		Source: gen.Source, Probes: gen.Probes, Policy: gen.Policy, Critical: gen.Critical, Plugins: gen.Plugins,
	})
	if err != nil {
		return nil, err
	}
	for _, ref := range gen.Source.Blobs() {
		switch root := gen.Source.OutPath(); {
		case gen.Source.External != nil: // oldPlugins knows where it is from.
		case root != "":
			b.pl.blobs[ref.Digest] = b.oldClosure(ctx, root, ref)
		default:
			b.pl.blobs[ref.Digest] = b.oldBundle(target.Source.Bundle, ref)
		}
	}
	b.oldPlugins(target, gen)
	for _, e := range before.Entries {
		b.pl.blobs[e.Digest] = b.oldSecret(target.Machine, e)
	}
	return it, b.finish(it, before.Entries)
}

// oldBundle is a bundle published before: the directory is packed only if the
// coordinator lost it, and must still be the same then.
func (b *builder) oldBundle(dir string, ref fleet.BlobRef) blob {
	return blob{ref: ref, name: dir, open: func() (source, error) {
		gone := ui.WithHint(fmt.Errorf("bundle %s: %w: the coordinator does not have it, and %s is another one now", ref.Digest.Short(), ErrSourceGone, dir),
			"publish without --refresh")
		if dir == "" {
			return nil, gone
		}
		if src, err := bundle.Digest(dir); err != nil || src.Digest != ref.Digest {
			return nil, errors.Join(gone, err)
		}
		return bundleBlob(dir, fleet.BundleSource(ref)).open()
	}}
}
