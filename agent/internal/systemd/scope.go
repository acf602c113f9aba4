package systemd

import (
	"context"
	"math"
	"time"
)

// Scope is a transient scope: processes that somebody else starts, held together and
// bounded. All of them end with it, and it goes when none is left.
type Scope struct {
	// Name of the unit, with its suffix.
	Name        string
	Description string
	// Slice that it is in, with its suffix.
	Slice string
	// StoppedAfter is a unit that a shutdown stops before it; empty for none.
	StoppedAfter string
	// PID is a process of this host that it begins with.
	PID uint32
	// Tasks is how many processes and threads it may have.
	Tasks uint64
	// Memory is how much it may use, as a share of the machine's.
	Memory float64
	// Runs is how long it may be there, in time awake; 0 for ever.
	Runs time.Duration
}

// scopeStops is how long what is in a scope has to end when the host shuts down.
const scopeStops = 10 * time.Second

// StartScope starts a scope, and returns when its process is in it. systemd 244 and
// younger knows all of that.
func (c *Conn) StartScope(ctx context.Context, s Scope) error {
	settings := []setting{
		set("Description", s.Description),
		set("Slice", s.Slice),
		set("PIDs", []uint32{s.PID}),
		set("CollectMode", "inactive-or-failed"),
		set("KillMode", "control-group"),
		set("TimeoutStopUSec", microseconds(scopeStops)),
		set("TasksAccounting", true),
		set("TasksMax", s.Tasks),
		set("MemoryAccounting", true),
		set("MemoryMaxScale", uint32(min(max(s.Memory, 0), 1)*math.MaxUint32)),
	}
	if s.StoppedAfter != "" {
		settings = append(settings, set("Before", []string{s.StoppedAfter})) // Stops are the other way round.
	}
	if s.Runs > 0 {
		settings = append(settings, set("RuntimeMaxUSec", microseconds(s.Runs)))
	}
	return c.startTransient(ctx, s.Name, settings, false)
}

func microseconds(d time.Duration) uint64 { return uint64(d / time.Microsecond) } //nolint:gosec // Not negative.
