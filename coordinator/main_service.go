package coordinator

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// serviceName is the coordinator's name for service managers.
	serviceName     = "fleet-coordinator"
	defaultProgram  = "/usr/local/bin/fleet-coordinator"
	defaultKit      = "/etc/fleet/coordinator-kit.age"
	defaultKitKey   = "/etc/fleet/coordinator-kit.key"
	defaultStateDir = "/var/lib/fleet-coordinator"
	// systemState is where systemd makes directories for users that it makes up.
	systemState = "/var/lib/"
)

//go:embed units/fleet-coordinator.service
var unitTemplate string

// system is what the commands about services need of the machine.
type system struct {
	host       func() (service.Host, error)
	executable func() (string, error)
}

// here is this machine.
var here = system{host: serviceHost, executable: os.Executable}

// serviceHost is this machine, where a coordinator can be a service of it.
func serviceHost() (service.Host, error) {
	if runtime.GOOS != "linux" {
		return service.Host{}, ui.WithHint(fmt.Errorf("%w: a coordinator is a service of Linux only", service.ErrNoManager),
			"here, have something keep \"fleet-coordinator run\" going")
	}
	return service.Here() //nolint:wrapcheck // It says what failed.
}

// installOptions are those of "install".
type installOptions struct {
	options
	program     string
	force, idle bool
}

// serviceCommands are those about the coordinator as a service.
func serviceCommands(stdout io.Writer, s system, began func()) []*cobra.Command {
	say := func(r service.Report) error { return r.Write(stdout) }
	commands := []*cobra.Command{newInstallCommand(s, say), newUninstallCommand(s, say), newStatusCommand(stdout, s)}
	commands = append(commands, service.Commands(serviceName, s.host, say)...)
	for _, c := range commands {
		do := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			began()
			return do(cmd, args)
		}
	}
	return commands
}

func newInstallCommand(s system, say func(service.Report) error) *cobra.Command {
	var o installOptions
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the coordinator as a service of this host, and start it",
		Long: `Install the coordinator as a service of this host (systemd), have it start with
the system, start it, and wait until it listens. All flags become those of the
service. It runs as a user of its own without privileges, and gets the kit and its
key from systemd, so that both files can be root's alone.

The service runs a copy of this program at --program. Installing again with other
flags, or from another version, replaces what is different and restarts the
coordinator; hosts go on meanwhile. Where nothing is different, nothing is done.

On NixOS use the module instead.

Exit codes: 0 done, 1 error, 2 wrong arguments.`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInstall(cmd.Context(), s, &o, cmd.Flags(), say)
		},
	}
	f := c.Flags()
	o.flags(f)
	for flag, def := range map[string]string{"kit": defaultKit, "kit-key": defaultKitKey, "state-dir": defaultStateDir, "listen": "[::]:7443"} {
		// Fails only for a flag that is not there.
		_ = f.Set(flag, def)
		f.Lookup(flag).DefValue, f.Lookup(flag).Changed = def, false
	}
	f.StringVar(&o.program, "program", defaultProgram, "`PATH` of the program that the service runs")
	f.BoolVar(&o.force, "force", false, "replace a service that this program did not install, and install on NixOS")
	f.BoolVar(&o.idle, "no-start", false, "leave a coordinator that does not run as it is")
	return c
}

// check finds mistakes on the command line.
func (o *installOptions) check() error {
	if _, err := newLog(io.Discard, o.logFormat); err != nil {
		return err
	}
	for flag, path := range map[string]*string{"--kit": &o.kit, "--kit-key": &o.kitKey, "--state-dir": &o.stateDir, "--program": &o.program} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if err := service.PlainPath(flag, abs); err != nil {
			return err //nolint:wrapcheck // It names the flag.
		}
		*path = abs
	}
	if below, ok := strings.CutPrefix(o.stateDir, systemState); !ok || below == "private" || strings.HasPrefix(below, "private/") {
		return fmt.Errorf("--state-dir %s: want a directory below %s: the service's user is made up when it starts, and systemd gives it one there", o.stateDir, systemState)
	}
	_, err := o.port()
	return err
}

// port of --listen.
func (o *installOptions) port() (int, error) {
	_, text, err := net.SplitHostPort(o.listen)
	port, nerr := strconv.Atoi(text)
	if err != nil || nerr != nil || port < 1 || port > 65535 {
		return 0, fmt.Errorf("--listen %q: want host:port with a port that stays the same", o.listen)
	}
	return port, service.Plain("--listen", o.listen) //nolint:wrapcheck // It names the flag.
}

func runInstall(ctx context.Context, s system, o *installOptions, flags *pflag.FlagSet, say func(service.Report) error) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	exe, err := service.Self(s.executable)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	done, err := h.Install(ctx, service.Definition{
		Service: serviceName, Program: o.program, From: exe, State: o.stateDir, Force: o.force, Idle: o.idle,
		Before: func() error { return o.checkKit(h) },
		Text:   func(r service.Record) (string, error) { return o.unit(r, flags) },
	})
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	r := done.Report(serviceName)
	if done.New {
		r.Next = append(r.Next, "fleetctl status, where the operator is, tells whether it can be reached")
	}
	return say(r)
}

// checkKit finds out now what the service would fail with at each start.
func (o *installOptions) checkKit(h service.Host) error {
	kit, key := filepath.Join(h.Root, o.kit), filepath.Join(h.Root, o.kitKey)
	for _, file := range []string{kit, key} {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			return ui.WithHint(fmt.Errorf("the coordinator starts from its kit: %w", err),
				"copy trust/coordinator-kit.age of the fleet's repository to "+o.kit+" and trust/coordinator.agekey to "+o.kitKey+", both with mode 0600")
		}
	}
	if fi, err := os.Stat(key); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return ui.WithHint(fmt.Errorf("%s can be read by others than root (mode %04o)", o.kitKey, fi.Mode().Perm()), "chmod 0600 "+o.kitKey)
	}
	if _, err := openKit(kit, key); err != nil {
		return err
	}
	return nil
}

// unit is the unit.
func (o *installOptions) unit(r service.Record, flags *pflag.FlagSet) (string, error) {
	args := []string{"--listen", o.listen, "--state-dir", o.stateDir}
	for _, name := range []string{"log-format", "max-blob-bytes", "min-free-bytes"} {
		if f := flags.Lookup(name); f.Changed {
			args = append(args, "--"+name, f.Value.String())
		}
	}
	port, err := o.port()
	if err != nil {
		return "", err
	}
	values := map[string]string{
		"MARK": r.String(), "PROGRAM": r.Program, "ARGS": service.UnitArgs(args), "KIT": o.kit, "KIT_KEY": o.kitKey,
		"STATE_DIRECTORY": strings.TrimPrefix(o.stateDir, systemState),
		"PORT_CAPABILITY": "", "PRIVATE_USERS": "yes",
	}
	if port < 1024 {
		// In a user namespace of its own the capability would count for nothing.
		values["PORT_CAPABILITY"], values["PRIVATE_USERS"] = "CAP_NET_BIND_SERVICE", ""
	}
	return service.Fill(unitTemplate, values) //nolint:wrapcheck // It says what failed.
}

func newUninstallCommand(s system, say func(service.Report) error) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the coordinator and remove its service",
		Long: `Stop the coordinator, and remove its service and the copy of the program that
install made. The state and the kit stay.

Exit codes: 0 done, 1 error, 2 wrong arguments.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := s.host()
			if err != nil {
				return err
			}
			rec, recErr := h.Record(serviceName)
			done, err := h.Uninstall(cmd.Context(), serviceName, force)
			if err != nil {
				return err //nolint:wrapcheck // It says what failed.
			}
			r := done.Report(serviceName)
			if recErr == nil {
				r.Did = append(r.Did, "kept "+rec.State+": the coordinator that is installed next goes on from there")
				r.Next = append(r.Next, "to remove that as well: rm -r "+rec.State+" "+systemState+"private/"+strings.TrimPrefix(rec.State, systemState))
			}
			return say(r)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also where another program made the service")
	return c
}

func newStatusCommand(stdout io.Writer, s system) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what the service manager knows of the coordinator",
		Long: `Show what the service manager knows of the coordinator on this host; where hosts
are, "fleetctl status" shows.

Exit codes: 0 it runs, 1 it does not, or an error, 2 wrong arguments.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := s.host()
			if err != nil {
				return err
			}
			st, err := h.Manager.State(cmd.Context(), serviceName)
			if err != nil {
				return err //nolint:wrapcheck // It says what failed.
			}
			text, advice := st.Advice(serviceName)
			if !st.Running {
				return ui.WithHint(errors.New(text), advice)
			}
			_, err = fmt.Fprintln(stdout, text)
			return err //nolint:wrapcheck // Of the output.
		},
	}
}
