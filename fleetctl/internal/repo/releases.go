package repo

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ReleaseState says how far a release came.
type ReleaseState string

// The states of a release in the repository.
const (
	// ReleasePrepared is signed; hosts may or may not see it: the publisher was
	// interrupted before it knew.
	ReleasePrepared ReleaseState = "prepared"
	// ReleaseStaged is signed by fewer keys than have to: hosts see nothing of
	// it until others signed it too. Its numbers are used.
	ReleaseStaged ReleaseState = "staged"
	// ReleaseCommitted is visible to hosts.
	ReleaseCommitted ReleaseState = "committed"
	// ReleaseAbandoned lost to another publisher and was never visible. Its
	// numbers stay used.
	ReleaseAbandoned ReleaseState = "abandoned"
)

// Release is everything that was published together.
type Release struct {
	ID           fleet.ReleaseID `json:"id"`
	Fleet        fleet.FleetID   `json:"fleet"`
	State        ReleaseState    `json:"state"`
	Created      time.Time       `json:"created"`
	Operator     string          `json:"operator"`
	Revision     string          `json:"revision,omitempty"`
	ExpectedHead fleet.ReleaseID `json:"expected_head,omitempty"`
	Generations  []Published     `json:"generations"`
}

// Published is one signed generation of a release.
type Published struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Number  fleet.Number      `json:"number"`
	Digest  fleet.Digest      `json:"digest"`
	// Generation and Secrets are DSSE envelopes; Secrets is empty where the
	// generation has no secrets.
	Generation []byte `json:"generation"`
	Secrets    []byte `json:"secrets,omitempty"`
}

// Ref names the generation.
func (p *Published) Ref(release fleet.ReleaseID) fleet.Ref {
	return fleet.Ref{Number: p.Number, Digest: p.Digest, Release: release}
}

// maxReleaseFile bounds a release's file: 50,000 machines fit.
const maxReleaseFile = 1 << 30

// WriteRelease records a release. The first time it must happen before the
// coordinator hears of it, so that no number is ever used twice.
func (r *Repository) WriteRelease(rel *Release) error {
	data, err := marshalRelease(rel)
	if err != nil {
		return err
	}
	return r.Write(data, "releases", string(rel.ID)+".json")
}

// ReleasesStamp changes when a release is added, replaced or taken away; empty
// where that can't be told.
func (r *Repository) ReleasesStamp() string {
	entries, err := os.ReadDir(r.Path("releases"))
	if err != nil {
		return ""
	}
	var stamp strings.Builder
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			fmt.Fprintln(&stamp, e.Name(), fi.Size(), fi.ModTime().UnixNano())
		}
	}
	return stamp.String()
}

// Releases reads all releases, oldest first. ErrCorrupt names the first file
// that is not what was written.
func (r *Repository) Releases() ([]*Release, error) {
	entries, err := os.ReadDir(r.Path("releases"))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("reading releases: %w", err)
	}
	var out []*Release
	var damaged []string
	var first error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		data, err := r.Read(maxReleaseFile, "releases", e.Name())
		var rel *Release
		if err == nil {
			rel, err = parseRelease(data, name)
		}
		if err != nil {
			damaged, first = append(damaged, e.Name()), cmp.Or(first, err)
			continue
		}
		out = append(out, rel)
	}
	if len(damaged) > 0 {
		return nil, r.releasesDamaged(damaged, first)
	}
	sort.SliceStable(out, func(i, j int) bool {
		if !out[i].Created.Equal(out[j].Created) {
			return out[i].Created.Before(out[j].Created)
		}
		return out[i].ID < out[j].ID
	})
	return out, nil
}
