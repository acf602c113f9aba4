package publisher

import (
	"errors"
	"fmt"
	"io"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/carry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrNothingToCarry says that the repository has no such generation.
var ErrNothingToCarry = errors.New("no such generation in releases/")

// Carried is a generation that is to be taken to its host by hand.
type Carried struct {
	Release repo.ReleaseState
	Ref     fleet.Ref
	// Blobs that the file has, and their bytes together.
	Blobs int
	Bytes uint64
	docs  carry.Documents
	blobs []carry.Blob
}

// Carry gathers the newest generation of a machine's profile, or that of one
// release, with all that it names, from the repository alone. bundle is the
// directory that the machine's source is now: it must still be what was signed.
func (p *Publisher) Carry(m fleet.MachineName, profile fleet.ProfileName, id fleet.ReleaseID, bundle string) (*Carried, error) {
	roots, err := p.Repo.Roots()
	if err != nil {
		return nil, err
	}
	rel, gen, err := p.newestPublished(m, profile, id)
	if err != nil {
		return nil, err
	}
	doc, err := repo.Decode[fleet.Generation](gen.Generation)
	if err != nil {
		return nil, err
	}
	c := &Carried{
		Release: rel.State, Ref: gen.Ref(rel.ID),
		docs: carry.Documents{Roots: roots, Generation: gen.Generation},
	}
	b := &builder{p: p}
	var blobs []blob
	for _, ref := range doc.Source.Blobs() {
		blobs = append(blobs, b.oldBundle(bundle, ref))
	}
	if len(gen.Secrets) > 0 {
		c.docs.Secrets = gen.Secrets
		manifest, err := repo.Decode[fleet.SecretsManifest](gen.Secrets)
		if err != nil {
			return nil, err
		}
		for _, e := range manifest.Entries {
			blobs = append(blobs, b.oldSecret(m, e))
		}
	}
	seen := map[fleet.Digest]bool{}
	for _, bl := range blobs {
		if seen[bl.ref.Digest] {
			continue
		}
		seen[bl.ref.Digest] = true
		c.Blobs++
		c.Bytes += bl.ref.Size
		c.blobs = append(c.blobs, carry.Blob{Ref: bl.ref, Open: func() (io.ReadCloser, error) { return openWhole(bl) }})
	}
	return c, nil
}

// newestPublished picks from the repository; abandoned releases don't count.
func (p *Publisher) newestPublished(m fleet.MachineName, profile fleet.ProfileName, id fleet.ReleaseID) (*repo.Release, *repo.Published, error) {
	releases, err := p.Repo.Releases()
	if err != nil {
		return nil, nil, err
	}
	var of *repo.Release
	var newest *repo.Published
	for _, rel := range releases {
		if rel.State == repo.ReleaseAbandoned || id != "" && rel.ID != id {
			continue
		}
		for i := range rel.Generations {
			g := &rel.Generations[i]
			if g.Machine == m && g.Profile == profile && (newest == nil || g.Number.Compare(newest.Number) > 0) {
				of, newest = rel, g
			}
		}
	}
	if newest == nil {
		return nil, nil, ui.WithHint(fmt.Errorf("%s of %s: %w", profile, m, ErrNothingToCarry), "publish it first, or update this checkout")
	}
	return of, newest, nil
}

func openWhole(b blob) (io.ReadCloser, error) {
	s, err := b.open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(s, 0, int64(b.ref.Size)), s}, nil //nolint:gosec // Bounded by what was signed.
}

// Write writes the file.
func (c *Carried) Write(w io.Writer) error {
	return carry.Write(w, c.docs, c.blobs)
}
