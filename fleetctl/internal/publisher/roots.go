package publisher

import (
	"context"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// handOverRoots gives the coordinator the trust roots that it lacks, before
// anything that only their keys signed. version is that of its newest; where
// that is not known, nothing is handed over.
func (p *Publisher) handOverRoots(ctx context.Context, t *release.Trust, version uint64) error {
	mine := t.Root().Version
	switch {
	case version == 0 || version == mine:
		return nil
	case version > mine:
		return ui.WithHint(fmt.Errorf("%w: the coordinator has version %d, it has %d", ErrRootBehind, version, mine), "get its newest commits")
	}
	roots, err := p.Repo.Roots()
	if err != nil {
		return err
	}
	_, err = p.Coordinator.AddTrustRoots(ctx, roots[version:])
	return err
}
