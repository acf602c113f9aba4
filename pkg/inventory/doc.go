// Package inventory reads what a fleet consists of: clan's evaluated
// inventory and the fleet file, fleet.yaml, which names the inventory and adds
// what a deployment needs (sources, probes, policy, secrets, operators, the
// coordinator's address).
//
// Both are read strictly: bounded in size and depth, no duplicate keys, no
// YAML anchors or aliases, unknown keys of fleet.yaml refused. Every error is
// a [Problem] that says file, line and what to do; all problems of a file are
// collected before [Load] gives up. What Load returns is immutable, so it may
// be read from many goroutines at once.
//
// Settings merge by clan's rule, see [Fleet.Settings].
package inventory
