package probe

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const noSystemctl = "this host has no systemctl"

func runSystemd(ctx context.Context, p fleet.Probe, env Env) (fleet.Verdict, string) {
	if p.Unit == "" || strings.HasPrefix(p.Unit, "-") {
		return fleet.VerdictFail, fmt.Sprintf("unit %q is no unit's name", p.Unit)
	}
	name := env.Systemctl
	if name == "" {
		if runtime.GOOS == "darwin" {
			// What is called that there is anybody's, and would be run as root.
			return fleet.VerdictInconclusive, noSystemctl
		}
		name = "systemctl"
	}
	program, err := exec.LookPath(name)
	if err != nil {
		return fleet.VerdictInconclusive, noSystemctl
	}
	// "show" and not "is-active": its exit code tells a missing manager from a
	// unit that is not active.
	code, output, err := command(ctx, Env{Environ: env.Environ}, program,
		"show", "--property=LoadState,ActiveState,SubState,Result", "--", p.Unit)
	switch {
	case err != nil:
		return fleet.VerdictInconclusive, err.Error()
	case code != 0:
		return fleet.VerdictInconclusive, withOutput("systemctl: "+exitText(code), output)
	}
	props := map[string]string{}
	for line := range strings.Lines(output) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			props[key] = value
		}
	}
	state := props["ActiveState"]
	switch {
	case state == "":
		return fleet.VerdictInconclusive, "systemctl gave no ActiveState"
	case props["LoadState"] == "not-found":
		return fleet.VerdictFail, fmt.Sprintf("unit %s does not exist", p.Unit)
	case state == "active" || state == "reloading" || state == "refreshing":
		return fleet.VerdictPass, fmt.Sprintf("%s (%s)", state, props["SubState"])
	}
	return fleet.VerdictFail, fmt.Sprintf("unit %s is %s (%s), result %s", p.Unit, state, props["SubState"], props["Result"])
}
