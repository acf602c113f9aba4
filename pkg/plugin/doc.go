// Package plugin is for authors of external drivers and probes. A plugin is a
// program of its own whose main serves one of the two contracts:
//
//	func main() { plugin.ServeDriver(&myDriver{dir: plugin.StateDir()}) }
//
// The agent starts it when it needs it, speaks gRPC with it over mutual TLS,
// and may end it at any moment: what a driver keeps must bear that. Log lines
// go to standard error. docs/plugins.md has the whole contract.
package plugin
