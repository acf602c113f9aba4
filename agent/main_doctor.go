package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/console"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/doctor"
	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/agent/internal/launchd"
	"github.com/cameronraysmith/fleet/agent/internal/nixdriver"
	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// errLacks says that doctor found something missing.
var errLacks = errors.New("this host lacks something that activations need")

func newDoctorCommand(o *options) *cobra.Command {
	path := ""
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look whether this host has what an activation needs",
		Long: `Look whether this host has what an activation needs, and say what to do for each
thing that it lacks: the agent's service and the one that takes the host back after a
boot, the agent, Nix and its daemon, the identity and what it trusts, the coordinator,
the clock, room on the disks; on Linux systemd, control groups and, of NixOS, whether a
system can be booted once; who could replace the agent's program; on a Mac whether its
path stays the same, who is at the screen, and what
macOS permits the program (App Management, Full Disk Access), which launchd is asked to
start for that. Nothing is changed, but that trying App Management leaves an empty
.DS_Store in apps, as nix-darwin's own check does.

Without --path, nix is looked for in the PATH that a service has by default, not in the
one of this shell: give it what "fleet-agent install --path" was given.

It ends with 0 where nothing is missing, also with warnings, and with 3 otherwise. Run
it as root: what only root can look at is unknown otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := o.examined(cmd.Context(), path)
			if err != nil {
				return err
			}
			return o.sayFindings(h.Examine(cmd.Context()))
		},
	}
	c.Flags().StringVar(&path, "path", "", "PATH that the agent has for nix")
	return c
}

// sayFindings shows what was found; the error says that something is missing.
func (o *options) sayFindings(findings []doctor.Finding) error {
	p := o.printer()
	switch {
	case p.JSON():
		if err := p.Value(map[string]any{"lacks": doctor.Lacks(findings), "findings": findings}); err != nil {
			return err //nolint:wrapcheck // Of the output.
		}
	default:
		tones := map[doctor.State]ui.Tone{doctor.OK: ui.ToneGood, doctor.Warning: ui.ToneWarn, doctor.Missing: ui.ToneBad, doctor.Unknown: ui.ToneWarn}
		for _, f := range findings {
			p.Printf("%s  %-18s %s\n", p.Paint(tones[f.State], fmt.Sprintf("%-7s", f.State)), f.Name, f.Detail)
			if f.Hint != "" && f.State != doctor.OK {
				p.Printf("         hint: %s\n", f.Hint)
			}
		}
	}
	if doctor.Lacks(findings) {
		return ui.WithHint(errLacks, "each thing that is missing has its own hint above")
	}
	return nil
}

// examined is this host, as doctor looks at it.
func (o *options) examined(ctx context.Context, path string) (doctor.Host, error) {
	nix := nixdriver.Config{Path: path}
	h := doctor.Host{
		Mac: runtime.GOOS == "darwin", Root: "/", EUID: os.Geteuid(), StateDir: o.stateDir, Now: o.now, Synced: o.clockSynced,
		AgentService: serviceName, DeadMan: deadManService, Dial: (&net.Dialer{}).DialContext,
		Ask: func(ctx context.Context) (st control.Status, err error) {
			err = o.ask(ctx, func(ctx context.Context, c *control.Client) (err error) {
				st, err = c.Status(ctx)
				return err
			})
			return st, err
		},
		Binding: func() (identity.Binding, error) {
			return identity.ReadBinding(filepath.Join(o.stateDir, identityDir))
		},
		Expiry: func() (time.Time, error) { return identity.ReadExpiry(filepath.Join(o.stateDir, identityDir)) },
		Nix:    func() bool { return nixdriver.HasNix(nix) },
		SystemdVersion: func(ctx context.Context) (version string, err error) {
			err = systemd.Address("").Ask(ctx, func(ctx context.Context, c *systemd.Conn) (err error) {
				version, err = c.Version(ctx)
				return err //nolint:wrapcheck // It says what failed.
			})
			return version, err //nolint:wrapcheck // As above.
		},
	}
	if nixdriver.IsNixOS("/") {
		h.BootOnce = nixdriver.NewNixOS(nix).WhyNotOnce
	}
	host, err := o.host()
	switch {
	case errors.Is(err, service.ErrNoManager):
		return h, nil
	case err != nil:
		return h, err //nolint:wrapcheck // It says what failed.
	}
	h.Manager = host.Manager
	if rec, err := host.Record(serviceName); err == nil {
		h.Program = rec.Program
	}
	if h.Mac {
		o.examinedMac(ctx, &h)
	}
	return h, nil
}

// moduleProgram is where the module for nix-darwin has the agent's program.
const moduleProgram = service.MacPrograms + "/" + serviceName

// examinedMac adds what a Mac has.
func (o *options) examinedMac(ctx context.Context, h *doctor.Host) {
	if h.Program == "" {
		if _, err := os.Stat(moduleProgram); err == nil {
			// nix-darwin has names of its own for its daemons.
			h.Program, h.Manager = moduleProgram, service.OfNixDarwin()
		}
	}
	h.ConsoleUser = func(ctx context.Context) (uint32, error) {
		f := console.Here(nil).Look(ctx)
		if f.Presence == console.Unknown {
			return 0, errors.New(f.Doubt)
		}
		return f.Person.UID, nil // Nobody's is 0.
	}
	h.Permissions = func(ctx context.Context) (map[string]permission.Permission, error) {
		return askPermissions(ctx, service.Launchctl{}, o.ownRunDir(), h.Program, h.EUID)
	}
}

// ownRunDir is where root has what is of one boot only: the agent's run directory, or where
// that would be.
func (o *options) ownRunDir() string {
	if fi, err := os.Lstat(o.runDir); err == nil && fi.IsDir() && fi.Mode().Perm()&0o022 == 0 {
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && int64(st.Uid) == int64(os.Geteuid()) {
			return o.runDir
		}
	}
	return systemRunDir
}

// permissionsCommand is what doctor has launchd start the agent's program with. Not for
// people: in a terminal it would tell what the terminal may do.
const permissionsCommand = "permissions"

func runPermissions(stdout, stderr io.Writer) int {
	all := map[string]permission.Permission{
		permission.AppManagement: (permission.System{}).AppManagement(), permission.FullDiskAccess: (permission.System{}).FullDiskAccess(),
	}
	if err := json.NewEncoder(stdout).Encode(all); err != nil {
		_, _ = fmt.Fprintf(stderr, "fleet-agent: saying what is permitted: %v\n", err)
		return exitError
	}
	return exitOK
}

// maxPermissions bounds what it prints.
const maxPermissions = 64 << 10

// askPermissions has launchd start the agent's program to tell what macOS permits it: what
// belongs to a program does not belong to what a terminal starts. below is a directory that
// only root writes to: TMPDIR is the person's whom sudo ran it for, and launchd would run as
// root what they put into its property list.
func askPermissions(ctx context.Context, l service.Launchctl, below, program string, euid int) (map[string]permission.Permission, error) {
	switch {
	case euid != 0:
		return nil, errors.New("only root may have launchd start the agent's program to try it")
	case program == "":
		return nil, errors.New("what the agent is run from is not known, and permissions belong to that")
	}
	dir, err := os.MkdirTemp(below, "fleet-doctor-")
	if err != nil {
		return nil, fmt.Errorf("asking what is permitted: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	jobs := launchd.Jobs{Launchctl: l, Dir: filepath.Join(dir, "jobs"), Name: "fleet-doctor"}
	answer := filepath.Join(dir, "answer")
	if err := jobs.StartLogged(ctx, filepath.Base(dir), []string{program, permissionsCommand}, answer); err != nil {
		return nil, fmt.Errorf("asking what is permitted: %w", err)
	}
	defer jobs.Drop(ctx, filepath.Base(dir))
	for {
		text, err := atomicfile.ReadAtMost(answer, maxPermissions)
		if err != nil {
			return nil, fmt.Errorf("asking what is permitted: %w", err)
		}
		if strings.HasSuffix(string(text), "\n") {
			var all map[string]permission.Permission
			if err := json.Unmarshal(text, &all); err != nil {
				return nil, fmt.Errorf("asking what is permitted: %s does not know: %.200q", program, text)
			}
			return all, nil
		}
		if err := sleep(ctx, permissionsLook); err != nil {
			return nil, fmt.Errorf("asking what is permitted: %s does not say: %w", program, err)
		}
	}
}

// permissionsLook is the pause between two looks at its answer.
const permissionsLook = 20 * time.Millisecond
