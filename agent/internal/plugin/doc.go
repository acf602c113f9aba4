// Package plugin runs external drivers and probes: programs that the signed
// policy pins by digest, each a process of its own that is started when it is
// needed, asked over gRPC and mutual TLS, and ended when it was idle for a
// while, does not answer in time, or breaks its contract.
//
// The protocol is hashicorp/go-plugin's, and plugins link that library
// (pkg/plugin). This half of it is the agent's own, because the library's
// brings net/rpc and with it html/template into every idle agent (1.4 MB of
// program and 1.8 MB resident, measured), follows whatever address a plugin
// prints, and waits without a deadline for a plugin that is asked to end.
package plugin
