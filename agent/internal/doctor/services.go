package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// minSystemd appends to the log that a transient service is given.
	minSystemd = 240
	nixStore   = "/nix/store/"
)

// useSudo is what to do where only root can look.
const useSudo = "use sudo"

func (h Host) root(context.Context) Finding {
	if h.EUID == 0 {
		return ok("user", "this is root")
	}
	return warning("user", "this is not root, so that some can't be looked at", useSudo)
}

// service is the agent's own.
func (h Host) service(ctx context.Context) Finding {
	const name = "service"
	if h.Manager == nil {
		return warning(name, "no service manager that is known runs this host", "have its own keep \"fleet-agent run\" going: activations are processes of the agent's then, and end with what ends it")
	}
	st, err := h.Manager.State(ctx, h.AgentService)
	if err != nil {
		return unknown(name, err.Error(), "")
	}
	text, advice := st.Advice(h.AgentService)
	switch {
	case !st.Installed && !st.Running:
		return missing(name, text, "fleet-agent install, or the module for NixOS or nix-darwin")
	case st.Failed, !st.Running:
		return missing(name, text, advice)
	case !st.Boot:
		return warning(name, text+", and does not start with the host", "fleet-agent install")
	}
	return ok(name, text)
}

// deadMan is the service that goes on with dead-man switches after a boot.
func (h Host) deadMan(ctx context.Context) Finding {
	const name = "dead-man at boot"
	if h.Manager == nil {
		return warning(name, "nothing takes a host back that was switched off in the midst of an activation, and comes up without an agent", "have the host run \"dead-man/fleet-dead-man dead-man-switches dead-man\" of the state directory once, as root, when it starts")
	}
	st, err := h.Manager.State(ctx, h.DeadMan)
	switch {
	case err != nil:
		return unknown(name, err.Error(), "")
	// launchd loads what is there at boot; systemd has to be told.
	case !st.Installed, !h.Mac && !st.Boot:
		return missing(name, h.DeadMan+" does not start with the host: it takes back what was not verified before a boot, also where no agent comes up any more",
			"fleet-agent install, or the module for NixOS or nix-darwin")
	}
	return ok(name, h.DeadMan+" starts with the host")
}

// agent is whether it answers, and who it is.
func (h Host) agent(ctx context.Context) Finding {
	const name = "agent"
	st, err := h.Ask(ctx)
	switch {
	case errors.Is(err, control.ErrNotAllowed):
		return unknown(name, err.Error(), useSudo)
	case errors.Is(err, control.ErrNoAgent):
		return missing(name, "no agent answers", fallback(ui.HintOf(err), "fleet-agent start"))
	case err != nil:
		return unknown(name, err.Error(), ui.HintOf(err))
	case st.Machine == "":
		return missing(name, "it answers, and is not enrolled", "fleetctl token MACHINE | ssh root@HOST fleet-agent install --join-file -")
	}
	for _, p := range st.Profiles {
		if strings.HasPrefix(string(p.Reason.Code), "no-") {
			return missing(name, fmt.Sprintf("%s is %s (%s): %s", p.Profile, p.State, p.Reason.Code, p.Reason.Message), p.Reason.Hint)
		}
	}
	return ok(name, "it answers, as "+string(st.Machine)+", version "+st.AgentVersion)
}

func (h Host) systemd(ctx context.Context) Finding {
	const name = "systemd"
	if h.Manager == nil {
		return warning(name, "systemd does not run this host", "activations and dead-man switches are processes of the agent's")
	}
	version, err := h.SystemdVersion(ctx)
	if err != nil {
		return unknown(name, err.Error(), "look whether it answers: systemctl is-system-running")
	}
	digits := strings.IndexFunc(version+" ", func(r rune) bool { return r < '0' || r > '9' })
	n, err := strconv.Atoi(version[:digits])
	switch {
	case err != nil:
		return unknown(name, "it says that its version is "+strconv.Quote(version), "")
	case n < minSystemd:
		return missing(name, "its version is "+version, fmt.Sprintf("use a system with systemd %d or later: this one can't start dead-man switches", minSystemd))
	}
	return ok(name, "version "+version)
}

func (h Host) cgroup(context.Context) Finding {
	const name = "cgroup"
	if _, err := os.Stat(h.at("/sys/fs/cgroup/cgroup.controllers")); err == nil {
		return ok(name, "version 2")
	}
	if h.Manager == nil {
		return ok(name, "not the unified hierarchy, of which nothing is used without systemd")
	}
	return warning(name, "the host has not the unified hierarchy of control groups", "boot without systemd.unified_cgroup_hierarchy=0: later versions of systemd know no other one")
}

// program is what the agent is run from. It is root's, and on a Mac permissions belong to
// its path.
func (h Host) program(context.Context) Finding {
	const name = "program"
	how := "fleet-agent install, or the module for NixOS"
	if h.Mac {
		how = "fleet-agent install, or the module for nix-darwin"
	}
	if h.Program == "" {
		if h.Mac {
			return unknown(name, "what the agent is run from is not known", how)
		}
		return ok(name, "no install of this program's put one in place, but a package, a module or a person")
	}
	led, err := filepath.EvalSymlinks(h.at(h.Program))
	switch {
	case err != nil:
		return missing(name, err.Error(), how)
	case h.Mac && (strings.HasPrefix(h.Program, nixStore) || strings.HasPrefix(led, h.at(nixStore))):
		return missing(name, h.Program+" is in the Nix store: what macOS permits a program belongs to its path, which changes with each version",
			"fleet-agent install copies it, and so does the module for nix-darwin")
	}
	who, err := service.Replaceable(h.at("/"), h.Program)
	switch {
	case err != nil:
		return unknown(name, err.Error(), "")
	case who != "" && h.Mac:
		return missing(name, h.Program+" runs as root, and could be replaced by "+who, "sudo fleet-agent install puts it where only root may write")
	case who != "":
		return warning(name, h.Program+" runs as root, and could be replaced by "+who, "have it and its directories be root's alone (chown root:root, chmod go-w)")
	}
	return ok(name, h.Program)
}

func (h Host) console(ctx context.Context) Finding {
	const name = "console"
	uid, err := h.ConsoleUser(ctx)
	switch {
	case err != nil:
		return unknown(name, err.Error(), "")
	case uid == 0:
		return warning(name, "nobody is logged in at the screen: LaunchAgents of users can't be loaded, of which an activation is degraded", "log in at the screen before generations that change them")
	}
	return ok(name, "user "+strconv.FormatUint(uint64(uid), 10)+" is logged in at the screen")
}

func (h Host) boot(context.Context) Finding {
	const name = "boot once"
	switch why, err := h.BootOnce(); {
	case err != nil:
		return unknown(name, err.Error(), "")
	case why != "":
		return warning(name, why, "what needs a reboot is switched to as far as that goes, and reboots are a person's (docs/operations.md, \"A host that needs a reboot\")")
	}
	return ok(name, "a system may be booted once, and the one before stays what boots")
}

func (h Host) at(path string) string { return filepath.Join(h.Root, path) }

func fallback(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
