package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Exit codes, as the help says.
const (
	exitOK = iota
	exitError
	exitUsage
	exitRefused
	exitAbsent
)

const rootHelp = `fleet-agent pulls signed generations from the fleet's coordinator, activates
them, checks them, and rolls back by itself.

Exit codes:
  0  done
  1  failed: the error says why
  2  wrong usage
  3  refused, by the coordinator or by the state that the host is in
  4  the agent of this host, or the coordinator, does not answer

Environment (flags win):
  FLEET_AGENT_STATE_DIR  as --state-dir
  FLEET_AGENT_RUN_DIR    as --run-dir
  NO_COLOR               no colours`

// Default directories, for an agent that runs as root.
const (
	defaultStateDir = "/var/lib/fleet/agent"
	defaultRunDir   = systemRunDir + "/fleet-agent"
	// Services of other users look into these two, and not into the first.
	defaultBundleDir  = "/var/lib/fleet/bundles"
	defaultPluginDir  = "/var/lib/fleet/plugins"
	defaultSecretsDir = "/var/lib/fleet/secrets" //nolint:gosec // A directory.
)

// options is what every command shares.
type options struct {
	stateDir, runDir string
	output           string
	stdin            io.Reader
	stdout, stderr   io.Writer
	now              func() time.Time
	clockSynced      func() bool // whether now is known to be right
	getenv           func(string) string
	// host is where services are installed.
	host func() (service.Host, error)
	// started is set once a command's own code runs: errors before that are
	// mistakes on the command line.
	started bool
}

func (o *options) printer() *ui.Printer {
	return ui.NewPrinter(o.stdout, ui.Format(o.output), ui.IsTerminal(o.stdout, o.getenv))
}

// Main runs fleet-agent with args (without the program's name) and returns the
// exit code, as the root command's help lists them.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 2 && args[0] == runActionCommand {
		// Before all else: the runner needs no flags, and no context that a
		// signal ends.
		return execute.RunAction(args[1])
	}
	if len(args) == 2 && args[0] == deadManCommand {
		return runSwitch(args[1], deadman.Main)
	}
	if len(args) == 1 && args[0] == permissionsCommand {
		return runPermissions(stdout, stderr)
	}
	if len(args) == 3 && args[0] == tellCommand {
		return runTell(args[1], args[2], stderr)
	}
	if len(args) == 2 && args[0] == deadMenCommand {
		return runSwitch(args[1], deadman.Resume)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return (&options{
		stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, host: service.Here,
		now: time.Now, clockSynced: clockSynced, //nolint:forbidigo // Injected from here on.
	}).main(ctx, args)
}

// main is Main with what it is given of the system.
func (o *options) main(ctx context.Context, args []string) int {
	stderr := o.stderr
	cmd := newRootCommand(o)
	cmd.SetArgs(args)
	cmd.SetIn(o.stdin)
	cmd.SetOut(o.stdout)
	cmd.SetErr(stderr)
	ran, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(stderr, "fleet-agent: %v\n", err)
	hint := hintOf(err)
	if hint == "" && !o.started {
		hint = fmt.Sprintf("see %q", ran.CommandPath()+" --help")
	}
	if hint != "" {
		_, _ = fmt.Fprintf(stderr, "  hint: %s\n", hint)
	}
	return exitCode(o, err)
}

func hintOf(err error) string {
	if hint := ui.HintOf(err); hint != "" {
		return hint
	}
	if r := (*sync.RefusedError)(nil); errors.As(err, &r) {
		return r.Reason.Hint
	}
	if r := (*release.Refusal)(nil); errors.As(err, &r) {
		return r.Hint()
	}
	return ""
}

func exitCode(o *options, err error) int {
	var refused *sync.RefusedError
	var document *release.Refusal
	switch {
	case !o.started:
		return exitUsage
	case errors.Is(err, errLacks), errors.As(err, &refused), errors.As(err, &document), errors.Is(err, control.ErrNotPossible), errors.Is(err, control.ErrNotAllowed), errors.Is(err, ErrOtherPin),
		errors.Is(err, service.ErrForeign), errors.Is(err, service.ErrOwned):
		return exitRefused
	case errors.Is(err, control.ErrNoAgent), errors.Is(err, sync.ErrUnreachable):
		return exitAbsent
	}
	return exitError
}

func newRootCommand(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:           "fleet-agent",
		Short:         "Carry out what the fleet desires of this host",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if _, err := ui.ParseFormat(o.output); err != nil {
				return err //nolint:wrapcheck // It says what failed.
			}
			return o.absolute()
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return ui.WithHint(err, fmt.Sprintf("see %q", c.CommandPath()+" --help"))
	})
	buildinfo.AddFlag(root)
	f := root.PersistentFlags()
	f.StringVar(&o.stateDir, "state-dir", fallback(o.getenv("FLEET_AGENT_STATE_DIR"), defaultStateDir), "`directory` of all that must survive")
	f.StringVar(&o.runDir, "run-dir", fallback(o.getenv("FLEET_AGENT_RUN_DIR"), defaultRunDir), "`directory` of the control socket")
	f.StringVarP(&o.output, "output", "o", string(ui.FormatTable), "`format` of results: table or json")
	f.Lookup("state-dir").DefValue, f.Lookup("run-dir").DefValue = defaultStateDir, defaultRunDir
	root.AddCommand(
		newRunCommand(o), newEnrolCommand(o), newStatusCommand(o), newPauseCommand(o), newResumeCommand(o), newPostponeCommand(o),
		newRollbackCommand(o), newRetryCommand(o), newRebootCommand(o), newLogsCommand(o), newApplyCommand(o), newTrustCommand(o), newRecoverCommand(o), newRestoreSecretsCommand(o), newVersionCommand(o),
		newInstallCommand(o), newUninstallCommand(o), newDoctorCommand(o),
	)
	root.AddCommand(service.Commands(serviceName, o.host, o.sayDone)...)
	o.noteStart(root)
	return root
}

// noteStart lets a command and those below it set started.
func (o *options) noteStart(c *cobra.Command) {
	if do := c.RunE; do != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			o.started = true
			return do(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		o.noteStart(sub)
	}
}

func (o *options) absolute() error {
	for _, dir := range []*string{&o.stateDir, &o.runDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("finding directory: %w", err)
		}
		*dir = abs
	}
	return nil
}

func fallback(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// runActionCommand is the hidden command that runs an action; it is for the
// agent itself.
const runActionCommand = "run-action"

// runnerCommand is how this program runs itself as the runner: by the name
// that it was called by, where that leads to the same file, because the file
// that the system names may be what a link of another name points to.
func runnerCommand() ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the agent's own program: %w", err)
	}
	if called, err := exec.LookPath(os.Args[0]); err == nil {
		if abs, err := filepath.Abs(called); err == nil && sameFile(abs, exe) {
			exe = abs
		}
	}
	return []string{exe, runActionCommand}, nil
}

func sameFile(a, b string) bool {
	fa, erra := os.Stat(a) //nolint:gosec // The name that this program was called by.
	fb, errb := os.Stat(b)
	return erra == nil && errb == nil && os.SameFile(fa, fb)
}

func newVersionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the program's version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			p := o.printer()
			if p.JSON() {
				return p.Value(buildinfo.Of()) //nolint:wrapcheck // Of the output.
			}
			p.Printf("%s\n", buildinfo.Text("fleet-agent"))
			return nil
		},
	}
}
