// Package handshake is what both halves of a plugin connection agree on. The
// protocol is that of hashicorp/go-plugin: the agent starts the plugin with the
// cookie and a certificate in its environment, the plugin prints one line with
// where it listens and a certificate of its own, and all calls are gRPC over
// mutual TLS with just these two certificates.
package handshake

// The handshake as go-plugin names its parts.
const (
	// CoreVersion is the version of go-plugin's own protocol.
	CoreVersion = 1
	// Version of the contracts, proto/driver/v1 and proto/probe/v1.
	Version = 1
	// CookieKey and CookieValue tell a plugin that it is one, and not run by a
	// person. They are no secret.
	CookieKey   = "FLEET_PLUGIN"
	CookieValue = "63a4e1cf5b6f4d0f9f0be7c3a5d2c1b8"
)

// Environment of a plugin.
const (
	// EnvState names the directory that a driver plugin may keep things in.
	EnvState = "FLEET_PLUGIN_STATE"
	// EnvLifeline, set to "stdin", says that standard input ends when the agent
	// does, and the plugin then too.
	EnvLifeline = "FLEET_PLUGIN_LIFELINE"
)

// MaxMessageBytes bounds a message, either way: an activation of three actions
// of driver.MaxActionBytes and a diff of driver.MaxDiffLines fit.
const MaxMessageBytes = 4 << 20
