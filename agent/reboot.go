package agent

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// rebootNeeded is what is to be said of a profile that is as desired, but for what
// only a reboot puts in place; empty where that is nothing. The host's own drivers
// are asked, whichever of them made the profile: a person may have switched it.
func (w *worker) rebootNeeded() fleet.Reason {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(w.a.drivers)) {
		more, err := driver.RebootNeeded(context.Background(), w.a.drivers[name], w.profile)
		if err != nil {
			w.log.Warn("whether the host needs a reboot can't be told", "driver", name, "error", err)
			continue
		}
		parts = append(parts, more...)
	}
	if len(parts) == 0 {
		return fleet.Reason{}
	}
	return fleet.Reason{
		Code: fleet.ReasonRebootNeeded, Message: "the desired generation runs, but for what only a reboot puts in place: " + strings.Join(parts, ", "),
		Hint: "reboot it when that suits: nothing reboots it by itself",
	}
}
