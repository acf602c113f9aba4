// Package contain runs programs that end with their context, as this process's own user or
// as another one, who may be at war with root.
//
// What runs as another user is started by the host's shell, which is that user already
// (user.go), and where systemd runs the host in a unit of its own, a scope of the user's
// slice (unit_linux.go): so whatever it does it has its own share of processes and
// memory and not the agent's, and ends whole. Where there is none, its process group is
// all that can be ended, and the limits of a process are all that bounds it.
package contain
