//go:build !linux

package atomicfile

import "golang.org/x/sys/unix"

// SyncFS makes everything that was written to any file system durable, as far as
// the system's sync does: there is no call for single file systems.
func SyncFS(...string) error { return unix.Sync() }
