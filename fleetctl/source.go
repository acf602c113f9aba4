package fleetctl

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// pinning is how much of what runs a signature names.
type pinning string

const (
	// pinnedClosure names the content of every path, so that no cache can change
	// any of it.
	pinnedClosure pinning = "closure"
	// pinnedOutPath names the path only: its content is what the host builds, or
	// what its binary caches have.
	pinnedOutPath pinning = "out-path"
	// pinnedNothing leaves the path to the host's evaluation of the locked flake.
	pinnedNothing pinning = "nothing"
)

func pinningOf(s fleet.Source) pinning {
	switch {
	case s.Bundle != nil, s.External != nil, len(s.Blobs()) > 0:
		return pinnedClosure
	case s.OutPath() != "":
		return pinnedOutPath
	}
	return pinnedNothing
}

// sourceText is a pinned source in short.
func sourceText(s fleet.Source) string {
	words := []string{s.Driver}
	switch {
	case s.Bundle != nil:
		return s.Driver + " " + s.Bundle.Digest.Short() + " " + ui.Size(s.Bundle.Size)
	case s.External != nil && s.External.Files != nil:
		return s.Driver + " " + s.External.Files.Digest.Short() + " " + ui.Size(s.External.Files.Size)
	case s.Flake != nil:
		words = append(words, "flake", flakeRevision(s.Flake))
	}
	if out := s.OutPath(); out != "" {
		words = append(words, shortPath(out))
	}
	switch pinningOf(s) {
	case pinnedNothing:
		words = append(words, "(unpinned)")
	case pinnedOutPath:
		words = append(words, "(closure unpinned)")
	case pinnedClosure:
	}
	return strings.Join(words, " ")
}

// flakeRevision is the beginning of a flake's revision, else of its hash.
func flakeRevision(f *fleet.FlakeSource) string {
	rev := strings.TrimPrefix(f.NarHash, "sha256-")
	if u, err := url.Parse(f.URL); err == nil {
		parts := strings.Split(u.Opaque, "/") // github:owner/repository/revision
		switch {
		case u.Query().Get("rev") != "":
			rev = u.Query().Get("rev")
		case len(parts) == 3:
			rev = parts[2]
		}
	}
	return shortRevision(rev)
}

// shortPath is a store path without its directory and with the beginning of
// its hash.
func shortPath(p string) string {
	const keep = 8
	hash, name, _ := strings.Cut(path.Base(p), "-")
	return hash[:min(keep, len(hash))] + "-" + name
}

// publishedSource says what a publish makes of a source.
func publishedSource(g publisher.Generation) string {
	text := sourceText(g.Source)
	if g.Unbuilt {
		text = strings.TrimSuffix(text, " (closure unpinned)") + " (to be built)"
	}
	if g.Same {
		text += " (as before)"
	}
	return text
}

// addSources says what each profile's desired generation consists of, as far as
// the repository has the releases.
func (m *machineStatus) addSources(w *workspace) error {
	releases, err := w.Releases()
	if err != nil {
		return err
	}
	for i := range m.Profiles {
		q := &m.Profiles[i]
		for _, r := range releases {
			for _, g := range r.Generations {
				if q.Desired.Digest == "" || string(g.Digest) != q.Desired.Digest {
					continue
				}
				src, err := publishedIn(g.Generation)
				if err != nil {
					return fmt.Errorf("release %s: %w", r.ID, err)
				}
				q.Source, q.Pinned = src, pinningOf(*src)
			}
		}
	}
	return nil
}

// publishedIn reads the source of a generation that this repository published.
func publishedIn(envelope []byte) (*fleet.Source, error) {
	payload, err := repo.Payload(envelope)
	if err != nil {
		return nil, err
	}
	var g fleet.Generation
	if err := json.Unmarshal(payload, &g); err != nil {
		return nil, fmt.Errorf("%w: %w", release.ErrMalformed, err)
	}
	return &g.Source, nil
}
