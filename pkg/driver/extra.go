package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// ErrUnsupported says that a driver lacks an extra ability.
var ErrUnsupported = errors.New("driver does not support this")

// Pruner is the extra ability to give disk space back.
type Pruner interface {
	// Prune removes built paths that are not in keep, are not current in any
	// profile and are not being built. It MUST be repeatable.
	Prune(ctx context.Context, keep []string) (removed []string, err error)
}

// Verifier is the extra ability to check a built path against its source.
type Verifier interface {
	// Verify reads all of a built path and returns an error that wraps
	// ErrNotBuilt where anything differs; building again repairs it.
	Verify(ctx context.Context, path string) error
}

// Repairer is the extra ability to mend a built path without its source.
type Repairer interface {
	// Repair mends what Verify found damaged, reads all of it again, and returns an
	// error that wraps ErrNotBuilt where something is left that only building
	// again may mend.
	Repair(ctx context.Context, path string) error
}

// Prober is the extra ability to name the probes that a built path brings
// along, besides those of the signed generation.
type Prober interface {
	// Probes returns the probes of a built path. It MUST only look.
	Probes(ctx context.Context, path string) ([]fleet.Probe, error)
}

// Rebooter is the extra ability to tell what only a reboot puts in place.
type Rebooter interface {
	// RebootNeeded names for people what of a profile's current path does not run
	// before the host is booted anew; none where nothing is. It MUST only look.
	RebootNeeded(ctx context.Context, profile fleet.ProfileName) ([]string, error)
}

// Drift is what became of a built path since it was activated. The zero value: nothing.
type Drift struct {
	// Runs and Boots are the paths that do instead; empty where they are the one, or
	// nothing does that could.
	Runs, Boots string
	// Gone says that the path itself is not there any more.
	Gone bool
}

// Drifter is the extra ability to tell what a person made of a profile by hand.
type Drifter interface {
	// Drift compares a profile with the path that was activated in it last. It MUST
	// only look, and be quick: it is asked each minute.
	Drift(ctx context.Context, profile fleet.ProfileName, path string) (Drift, error)
}

// Hinderer is the extra ability to tell what of the host keeps a profile from being
// built and activated, whatever its generation is.
type Hinderer interface {
	// Hindrance names it, with what to do about it; the zero Reason where there is
	// none. It MUST only look, and be quick: it is asked each minute.
	Hindrance(ctx context.Context, profile fleet.ProfileName) (fleet.Reason, error)
}

// HindranceOf asks d, or the built-in driver behind d; with one that can't be asked
// there is none.
func HindranceOf(ctx context.Context, d Driver, profile fleet.ProfileName) (fleet.Reason, error) {
	h, ok := BuiltIn(d).(Hinderer)
	if !ok {
		return fleet.Reason{}, nil
	}
	return h.Hindrance(ctx, profile)
}

// DriftOf asks d, or the built-in driver behind d; one that can't be asked knows of
// none.
func DriftOf(ctx context.Context, d Driver, profile fleet.ProfileName, path string) (Drift, error) {
	r, ok := BuiltIn(d).(Drifter)
	if !ok {
		return Drift{}, nil
	}
	return r.Drift(ctx, profile, path)
}

// RebootNeeded asks d, or the built-in driver behind d; one that can't be asked
// changes nothing of the kind.
func RebootNeeded(ctx context.Context, d Driver, profile fleet.ProfileName) ([]string, error) {
	r, ok := BuiltIn(d).(Rebooter)
	if !ok {
		return nil, nil
	}
	return r.RebootNeeded(ctx, profile)
}

// Probes asks d, or the built-in driver behind d; one that can't be asked has
// none.
func Probes(ctx context.Context, d Driver, path string) ([]fleet.Probe, error) {
	p, ok := BuiltIn(d).(Prober)
	if !ok {
		return nil, nil
	}
	return p.Probes(ctx, path)
}

// Prune prunes where d, or the built-in driver behind d, can.
func Prune(ctx context.Context, d Driver, keep []string) ([]string, error) {
	p, ok := BuiltIn(d).(Pruner)
	if !ok {
		return nil, fmt.Errorf("pruning: %w", ErrUnsupported)
	}
	return p.Prune(ctx, keep)
}

// Verify verifies where d, or the built-in driver behind d, can.
func Verify(ctx context.Context, d Driver, path string) error {
	v, ok := BuiltIn(d).(Verifier)
	if !ok {
		return fmt.Errorf("verifying %s: %w", path, ErrUnsupported)
	}
	return v.Verify(ctx, path)
}

// Repair repairs where d, or the built-in driver behind d, can.
func Repair(ctx context.Context, d Driver, path string) error {
	r, ok := BuiltIn(d).(Repairer)
	if !ok {
		return fmt.Errorf("repairing %s: %w", path, ErrUnsupported)
	}
	return r.Repair(ctx, path)
}

// BuiltIn is the built-in driver behind d, or d; nil for nil.
func BuiltIn(d Driver) Driver {
	if p, ok := d.(*inProcess); ok {
		return p.builtin
	}
	return d
}
