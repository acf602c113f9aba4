package doctor

import (
	"context"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/permission"
)

// permissionsWithin bounds asking, which starts the agent's program.
const permissionsWithin = 20 * time.Second

// permitted is what macOS permits the agent's program.
func (h Host) permitted(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, permissionsWithin)
	defer cancel()
	all, err := h.Permissions(ctx)
	var findings []Finding
	for _, p := range []struct {
		name, title string
		denied      State
		without     string
	}{
		{permission.AppManagement, "App Management", Missing, "nix-darwin's activations fail before they change anything, where they have apps to copy"},
		{permission.FullDiskAccess, "Full Disk Access", Warning, "activations fail that write settings which macOS guards, such as those of com.apple.universalaccess"},
	} {
		hint := "System Settings > Privacy & Security > " + p.title + ": add " + fallback(h.Program, "the agent's program") +
			" and " + filepath.Join(h.StateDir, "dead-man", "fleet-dead-man") + ", which takes the host back; again after an update of the agent where this says so"
		switch got := all[p.name]; {
		case err != nil:
			findings = append(findings, unknown(p.title, err.Error(), hint))
		case got.Answer == permission.Granted:
			findings = append(findings, ok(p.title, got.Detail))
		case got.Answer == permission.Denied:
			findings = append(findings, Finding{p.title, p.denied, got.Detail + "; without it " + p.without, hint})
		default:
			findings = append(findings, unknown(p.title, got.Detail, hint))
		}
	}
	return findings
}
