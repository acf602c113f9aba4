package systemd

import (
	"context"

	"github.com/godbus/dbus/v5"
)

// shutdown is the target that services conflict with: it is queued as soon as the host
// is to be powered off, rebooted or halted.
const shutdown = "shutdown.target"

// Stopping says whether the host is being shut down: services are stopped, none is
// started any more, and so nothing that fails says anything about what was activated.
func (c *Conn) Stopping(ctx context.Context) (bool, error) {
	var path dbus.ObjectPath
	if err := c.call(ctx, "LoadUnit", []any{&path}, shutdown); err != nil {
		return false, err
	}
	var job struct {
		ID   uint32 // 0 for none
		Path dbus.ObjectPath
	}
	if err := c.get(ctx, path, shutdown, ".Unit", "Job", &job); err != nil {
		return false, err
	}
	var active string
	if err := c.get(ctx, path, shutdown, ".Unit", "ActiveState", &active); err != nil {
		return false, err
	}
	return job.ID != 0 || active == "active" || active == "activating", nil
}

// Stopping is Conn's, over a connection of its own, and again as Ask does; false where
// that can't be told.
func (a Address) Stopping(ctx context.Context) (stopping bool) {
	if err := a.Ask(ctx, func(ctx context.Context, c *Conn) (err error) {
		stopping, err = c.Stopping(ctx)
		return err
	}); err != nil {
		return false
	}
	return stopping
}
