// Package driver is the contract of what knows how to build and activate one
// kind of profile, and its versioned adapter to gRPC. Built-in drivers are
// called through the same adapter in-process, so that the path of a plugin is
// the tested path.
package driver

import (
	"context"
	"errors"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Sentinels that survive the way through gRPC (errors.Is).
var (
	// ErrSource says that the source can never be built here; trying again is
	// of no use.
	ErrSource = errors.New("source refused")
	// ErrNotBuilt says that a path is not, or no longer, whole on this host.
	ErrNotBuilt = errors.New("not built here")
)

// DefaultDeadline is the deadline of an action where the driver sets none of
// its own; the agent replaces it by what the signed policy says.
const DefaultDeadline time.Duration = fleet.DefaultActivation

// Driver builds and activates one kind of profile. Methods MUST be safe for
// concurrent use on different profiles; the agent calls one method at a time
// per profile and repeats failed calls with backoff, except for ErrSource.
type Driver interface {
	// Current returns the built path that runs, or "" when nothing does.
	Current(ctx context.Context, profile fleet.ProfileName) (path string, err error)
	// Build makes a source ready and returns its path. It MUST be repeatable:
	// a second call for the same source verifies and returns the same path.
	// Progress may be nil; it is called from one goroutine.
	Build(ctx context.Context, req BuildRequest, progress func(Progress)) (path string, err error)
	// Diff says, in lines for people, what would change; from may be "".
	Diff(ctx context.Context, profile fleet.ProfileName, from, to string) ([]string, error)
	// Activation returns how to move between two built paths; either may be "",
	// not both.
	Activation(ctx context.Context, profile fleet.ProfileName, from, to string) (Activation, error)
}

// BuildRequest asks for a build.
type BuildRequest struct {
	Profile fleet.ProfileName
	Source  fleet.Source
	// Blobs that the source names, verified: digest to absolute file name.
	Blobs map[fleet.Digest]string
	// Closure is a file with the closure manifest that the source names, as JSON:
	// its signatures, its fleet and that it is of the pinned path were verified.
	// Empty where the source names none. Its blob is the envelope, which only who
	// holds the trust root can judge.
	Closure string
}

// Progress is what a build is doing.
type Progress struct {
	// Message for people.
	Message string
	// Done and Total in units of the driver's own; 0 when unknown.
	Done, Total uint64
}
