// Package registry keeps what the coordinator knows of machines: inventory,
// identity, ban, and what each host last said. One writer at a time changes a
// host; readers take immutable snapshots and wait for nobody.
//
// It also holds the sessions of connected hosts and wakes them. A wake-up is a
// bit in the session and one non-blocking send on a channel of one: a slow
// host costs nobody else anything and has nothing queued up.
package registry
