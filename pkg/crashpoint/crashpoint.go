// Package crashpoint names the moments at which a crash is worth trying: before
// and after each step that makes something durable. Programs call Hit there.
//
// Without the build tag "crashpoints" that is an empty function, and no name is
// in the program. With the tag, two environment variables say what happens:
//
//	FLEET_CRASHPOINT      what to do where; empty: nothing
//	FLEET_CRASHPOINT_LOG  a file to which each hit appends a line
//
// FLEET_CRASHPOINT is a list of triggers, separated by commas, that fire once
// each and in this order:
//
//	[PROCESS/]POINT[@WHAT][#N]=kill
//	[PROCESS/]POINT[@WHAT][#N]=stop:FILE
//
// PROCESS is agent (its commands included), runner, switch, coordinator or
// fleetctl.
// POINT is a name of the registry, or * for any. WHAT is what HitFor or
// HitCaller told (empty: any). N is which of the hits, from 1 on, counted since
// the trigger before fired. kill sends SIGKILL to the process itself; stop
// writes FILE with the process id in it, and then sends SIGSTOP, so that a
// machine's power can be cut at the very point.
//
// With a log, hits are counted over all processes that share it, and what fired
// is remembered there; without, each process counts for itself.
package crashpoint

// Point is a moment at which a crash is worth trying.
type Point uint16

// Side is the program, or the part of one, that a point belongs to.
type Side string

// The sides.
const (
	// Any is code that several programs share: who hit it is in the log.
	Any         Side = "any"
	Agent       Side = "agent"
	Runner      Side = "runner"
	Switch      Side = "dead-man switch"
	Coordinator Side = "coordinator"
	Blob        Side = "blob store"
	Publish     Side = "publish"
)

// Info describes a point.
type Info struct {
	// Name is what FLEET_CRASHPOINT calls it.
	Name string
	Side Side
	// What is the case at the point, as a sentence.
	What string
}

// Points is the registry; the index is the Point, and 0 is none.
func Points() []Info { return registry[:] }
