package systemd

import (
	"context"

	"github.com/godbus/dbus/v5"
)

// Definition is what systemd would start a service as, where it started it now.
type Definition struct {
	// Load is loaded, not-found, masked, bad-setting or error.
	Load string
	// Enabled is whether it starts with the system, in systemctl's words: enabled,
	// disabled, static and others.
	Enabled string
	// Files are the unit's file and those that add to it.
	Files []string
	// Stale says that files were changed since they were read.
	Stale bool
	// Argv is what its main process is started with, the program's path first; empty where
	// it has none.
	Argv []string
	// MainPID is its main process; 0 for none.
	MainPID uint32
}

// Program is what the main process is started from; empty for none.
func (d Definition) Program() string {
	if len(d.Argv) == 0 {
		return ""
	}
	return d.Argv[0]
}

// Define looks at a service.
func (c *Conn) Define(ctx context.Context, unit string) (Definition, error) {
	var path dbus.ObjectPath
	if err := c.call(ctx, "LoadUnit", []any{&path}, unit); err != nil {
		return Definition{}, err
	}
	var d Definition
	var file string
	var more []string
	var commands []struct {
		Path                                         string
		Argv                                         []string
		Ignore                                       bool
		Began, BeganMonotonic, Ended, EndedMonotonic uint64
		PID                                          uint32
		Code, Status                                 int32
	}
	for _, p := range []struct {
		of, name string
		into     any
	}{
		{".Unit", "LoadState", &d.Load},
		{".Unit", "UnitFileState", &d.Enabled},
		{".Unit", "FragmentPath", &file},
		{".Unit", "DropInPaths", &more},
		{".Unit", "NeedDaemonReload", &d.Stale},
		{".Service", "ExecStart", &commands},
		{".Service", "MainPID", &d.MainPID},
	} {
		if err := c.get(ctx, path, unit, p.of, p.name, p.into); err != nil {
			return Definition{}, err
		}
	}
	if file != "" {
		d.Files = append(d.Files, file)
	}
	d.Files = append(d.Files, more...)
	if len(commands) > 0 {
		// Its own first argument may be another name than the program's path.
		d.Argv = append([]string{commands[0].Path}, commands[0].Argv[min(1, len(commands[0].Argv)):]...)
	}
	return d, nil
}

// Reload has systemd read its units' files anew.
func (c *Conn) Reload(ctx context.Context) error { return c.call(ctx, "Reload", nil) }
