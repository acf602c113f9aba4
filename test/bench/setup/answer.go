//go:build linux

package setup

import "time"

// What the holder of the connections is told.
const (
	// CmdConnect opens all connections; Connecting says how long it took.
	CmdConnect = "connect"
	// CmdArm forgets the wake-ups so far.
	CmdArm = "arm"
	// CmdCollect waits until every agent was woken; Received says when.
	CmdCollect = "collect"
)

// Answer is the holder's answer to a command.
type Answer struct {
	// Connecting runs until the last agent has its hello.
	Connecting time.Duration `json:"connecting,omitempty"`
	// Received holds, for each agent, when it was woken (Clock).
	Received []int64 `json:"received,omitempty"`
}
