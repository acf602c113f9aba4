// Package doctor looks whether a host has what an activation needs, before the first one
// has to find out. Each look has a bound, and changes nothing, but that trying App
// Management leaves an empty .DS_Store in apps of a Mac.
package doctor

import (
	"context"
	"net"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/service"
)

// State is what was found of one thing.
type State string

// The states.
const (
	OK State = "ok"
	// Warning: the host does without, less well, or soon will not.
	Warning State = "warning"
	// Missing: an activation would fail, or the host not be reached.
	Missing State = "missing"
	// Unknown: it can't be told from here.
	Unknown State = "unknown"
)

// Finding is one thing that was looked at.
type Finding struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Detail says what is the case, Hint what to do; of what is missing both are there.
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

// within bounds each look that asks somebody.
const within = 10 * time.Second

// Host is what is looked at. All but the optional functions are needed.
type Host struct {
	// Mac says that it is one; otherwise it is a host of Linux.
	Mac bool
	// Root is put in front of the host's own paths, for tests.
	Root string
	// EUID is the effective user's number: much is known to root only.
	EUID int
	// StateDir is the agent's. Absolute.
	StateDir string
	// Now is the time, Synced whether it is known to be right.
	Now    func() time.Time
	Synced func() bool
	// Manager has the services; nil where none is known.
	Manager service.Manager
	// AgentService and DeadMan are their names; Program is what the agent runs from,
	// empty where that is not known.
	AgentService, DeadMan, Program string
	// Ask asks the agent that runs.
	Ask func(context.Context) (control.Status, error)
	// Binding is what the host was, or is being, enrolled with, and Expiry until when its
	// identity is good. Errors: identity.ErrNotEnrolled, of the file system.
	Binding func() (identity.Binding, error)
	Expiry  func() (time.Time, error)
	// Dial opens a connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Nix says whether there is a nix in the agent's PATH.
	Nix func() bool
	// SystemdVersion is systemd's own word of its version; of Linux.
	SystemdVersion func(context.Context) (string, error)
	// BootOnce says why a system can't be booted once, of NixOS; empty where it can. nil
	// elsewhere.
	BootOnce func() (why string, err error)
	// Permissions tells what macOS permits the agent's program, by name; of a Mac.
	Permissions func(context.Context) (map[string]permission.Permission, error)
	// ConsoleUser is the user at a Mac's screen; 0 for nobody.
	ConsoleUser func(context.Context) (uint32, error)
}

// Examine looks at everything, in an order that what comes later may need what comes
// first. It never fails: what can't be looked at is a finding.
func (h Host) Examine(ctx context.Context) []Finding {
	looks := []func(context.Context) Finding{h.root, h.service, h.deadMan, h.agent, h.program, h.nix, h.nixDaemon}
	if h.Mac {
		looks = append(looks, h.console)
	} else {
		looks = append(looks, h.systemd, h.cgroup)
	}
	if h.BootOnce != nil {
		looks = append(looks, h.boot)
	}
	looks = append(looks, h.identity, h.coordinator, h.clock, h.stateRoom)
	if h.Nix() {
		looks = append(looks, h.storeRoom)
	}
	var findings []Finding
	for _, look := range looks {
		limited, cancel := context.WithTimeout(ctx, within)
		findings = append(findings, look(limited))
		cancel()
	}
	if h.Mac {
		findings = append(findings, h.permitted(ctx)...)
	}
	return findings
}

// Lacks says whether something is missing.
func Lacks(findings []Finding) bool {
	for _, f := range findings {
		if f.State == Missing {
			return true
		}
	}
	return false
}

func ok(name, detail string) Finding { return Finding{Name: name, State: OK, Detail: detail} }

func warning(name, detail, hint string) Finding {
	return Finding{Name: name, State: Warning, Detail: detail, Hint: hint}
}

func missing(name, detail, hint string) Finding {
	return Finding{Name: name, State: Missing, Detail: detail, Hint: hint}
}

func unknown(name, detail, hint string) Finding {
	return Finding{Name: name, State: Unknown, Detail: detail, Hint: hint}
}
