//go:build !linux

package agent

// clockSynced: a Mac's clock goes on without power, and macOS sets it. One that
// was set wrong by hand is said, and updates wait.
func clockSynced() bool { return true }
