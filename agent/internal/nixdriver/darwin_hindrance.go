package nixdriver

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"

	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// What of a system's activate fails where something is not permitted, as the sources of
// nix-darwin of 2026 have it.
const (
	// checksApps is its own check, before it changes anything.
	checksApps = "ensureAppManagement"
	// writesGuarded are settings that only who has Full Disk Access may write; without it
	// defaults fails, and with it the activation midway.
	writesGuarded = "defaults write com.apple.universalaccess"
)

// Hindrance implements driver.Hinderer. From a Mac without nix-darwin there is no way
// back, so that a person takes the first step. What macOS does not permit the agent holds
// it where the system that runs needs it: the way back would, too. Only what was tried and
// denied for want of it counts; and who knows better has it not tried (Config.Unchecked).
func (d *Darwin) Hindrance(ctx context.Context, profile fleet.ProfileName) (fleet.Reason, error) {
	path, err := d.Current(ctx, profile)
	if err != nil || profile != fleet.System {
		return fleet.Reason{}, err
	}
	if path == "" {
		return fleet.Reason{
			Code: fleet.ReasonNoSystem, Message: "nix-darwin does not run on this Mac, so that there is nothing to go back to",
			Hint: "switch to a first system by hand, with darwin-rebuild switch" + goesOn,
		}, nil
	}
	script, err := atomicfile.ReadAtMost(filepath.Join(d.at(path), activateName), maxActivateBytes)
	if err != nil {
		return fleet.Reason{}, err //nolint:wrapcheck // It names the file.
	}
	for _, need := range []struct {
		name, marker, where string
		code                fleet.ReasonCode
		try                 func() permission.Permission
	}{
		{permission.AppManagement, checksApps, "App Management", fleet.ReasonNoAppManagement, d.config.Permits.AppManagement},
		{permission.FullDiskAccess, writesGuarded, "Full Disk Access", fleet.ReasonNoFullDiskAccess, d.config.Permits.FullDiskAccess},
	} {
		if slices.Contains(d.config.Unchecked, need.name) || !bytes.Contains(script, []byte(need.marker)) {
			continue
		}
		if p := need.try(); p.Answer == permission.Denied {
			return fleet.Reason{
				Code: need.code, Message: "macOS does not permit the agent what activating a system needs, " + need.where + ": " + p.Detail,
				Hint: "add the agent's program, and its copy dead-man/fleet-dead-man in the state directory, in System Settings > Privacy & Security > " +
					need.where + " (fleet-agent doctor names both)" + goesOn + "; where that is wrong, run the agent with --skip-check " + need.name,
			}, nil
		}
	}
	return fleet.Reason{}, nil
}
