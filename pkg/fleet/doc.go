// Package fleet is the pure domain of a fleet: its words, identifiers and
// documents. It does no I/O, reads no clock and starts no goroutine.
//
// The words, used everywhere (code, protos, flags, metrics, logs, docs):
//
//   - Fleet: machines under one coordinator, with a lower-case fleet id.
//   - Machine: a host in the inventory, with name, class and tags. Disabled
//     when the inventory says that it isn't meant to run now.
//   - Profile: what on a machine has generations of its own: "system", or
//     "home/<user>".
//   - Generation: the desired state of one profile of one machine; immutable,
//     signed, numbered upwards per machine and profile. What enrolment finds
//     running is generation 0.
//   - Release: the generations published together from one revision; it may
//     cover any subset of machines.
//   - Closure: all that a generation needs on the host.
//   - Activation: making a generation the running one.
//   - Verified: activated, probes good, and the coordinator reached over a
//     connection opened after the activation.
//   - Confirmed: verified, and acknowledged by the coordinator.
//   - Last-good: the newest verified generation before the one in question.
//   - Rollback: a host's own return to its last-good; an operator's rollback
//     goes to the newest generation in revert_to that was confirmed there.
//   - Probe: one health check; its verdict is pass, fail or inconclusive.
//   - Enrolment: how a host gets its host identity.
//   - Driver: what knows how to build and activate one kind of profile.
//   - Desired, Observed: what should be, and what is.
package fleet
