package secrets

import (
	"path/filepath"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Restarts are the units, sorted, that read a secret among entries whose content in the
// set at to is not that in the set at from, or that from has not.
func Restarts(from, to string, entries []fleet.SecretEntry) []string {
	var units []string
	for _, e := range entries {
		if len(e.RestartUnits) > 0 && (from == "" || !sameContent(filepath.Join(from, Place(e)), filepath.Join(to, Place(e)))) {
			units = append(units, e.RestartUnits...)
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}
