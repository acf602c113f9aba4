package bundledriver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/pkg/bundle"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Probes names the bundle's own "check", where there is one.
func (d *Driver) Probes(_ context.Context, path string) ([]fleet.Probe, error) {
	check := filepath.Join(path, bundle.Check)
	fi, err := os.Stat(check)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("looking for %s: %w", check, err)
	case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
		return nil, nil
	}
	return []fleet.Probe{{Name: bundle.Check, Kind: fleet.ProbeExec, Argv: []string{check}}}, nil
}
