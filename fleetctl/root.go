// Package fleetctl is the operators' program: it keeps a fleet's repository
// (trust root, releases, secrets, host keys) and talks to the coordinator with
// an operator identity. One file per command; what is not command line is in
// the internal packages.
package fleetctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/generate"
	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

// options is what every command shares. Commands add their own beside it.
type options struct {
	// Dir is the fleet's repository; by default the nearest directory upwards
	// from the working directory that has a fleet.yaml.
	Dir string
	// Output is "table" or "json".
	Output string
	// Identity is a file of age identities; internal/keyring has the default.
	Identity string
	// Key is the one key that may sign: a file, or ssh-agent:FINGERPRINT.
	Key string
	// Address overrides the coordinator's address of fleet.yaml.
	Address string
	// CallTimeout bounds one call to the coordinator.
	CallTimeout time.Duration

	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// started is set once a command's own code runs: errors before that are
	// mistakes on the command line.
	started bool
	// terminal says that Stdin and Stderr are one, whatever they are: for tests.
	terminal bool

	// Now is the only source of wall time.
	Now    func() time.Time
	Getenv func(string) string
}

// printer writes results to Stdout in the format that was asked for.
func (o *options) printer() *ui.Printer {
	return ui.NewPrinter(o.Stdout, ui.Format(o.Output), ui.IsTerminal(o.Stdout, o.Getenv))
}

// Exit codes.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
	exitConflict    = 5
)

const rootHelp = `fleetctl publishes signed releases to a fleet of machines and shows where each
machine is and why.

It works on the fleet's repository: the directory with fleet.yaml, made by
"fleetctl init". Commit that directory; private keys in it are age-encrypted.

Exit codes:
  0  done
  1  failed: the error says why
  2  wrong usage
  3  refused, by the coordinator, by a check of signed data, or because others can
     read a secret than those who are meant
  4  the coordinator cannot be reached
  5  conflict: somebody published in the meantime, or is changing the repository;
     run it again

Environment:
  FLEET_DIR            the fleet's repository, as --dir
  FLEET_COORDINATOR    the coordinator's host:port, as --coordinator
  FLEET_AGE_KEY_FILE   file of age identities, as --identity
  FLEET_NIX            the nix program (default: the one on PATH)
  SOPS_AGE_KEY, SOPS_AGE_KEY_FILE
                       age identities as sops finds them
  SSH_AUTH_SOCK        the ssh-agent whose ed25519 keys may sign
  NO_COLOR             no colours, no progress`

// Main runs fleetctl with args (without the program's name) and returns the
// exit code: the ones in the root command's help.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, &options{
		Stdin: stdin, Stdout: stdout, Stderr: stderr,
		Now:    time.Now, //nolint:forbidigo // Injected from here on.
		Getenv: os.Getenv,
	}, args)
}

// run carries out one command line.
func run(ctx context.Context, o *options, args []string) int {
	cmd := newRootCommand(o)
	cmd.SetArgs(args)
	cmd.SetIn(o.Stdin)
	cmd.SetOut(o.Stdout)
	cmd.SetErr(o.Stderr)
	ran, err := cmd.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !o.started {
		if ui.HintOf(err) == "" {
			err = ui.WithHint(err, fmt.Sprintf("see %q", ran.CommandPath()+" --help"))
		}
		err = usageError{err}
	}
	// An alarm that was shown stays one.
	if ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, client.ErrRefused) {
		err = ui.WithHint(errors.New("interrupted"), "it can be run again")
	}
	showError(o, err)
	return exitCode(err)
}

func newRootCommand(o *options) *cobra.Command {
	root := &cobra.Command{
		Use:           "fleetctl",
		Short:         "Publish signed releases to a fleet and see where it is",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if _, err := ui.ParseFormat(o.Output); err != nil {
				return usageError{err}
			}
			if o.Address != "" {
				if _, port, err := net.SplitHostPort(o.Address); err != nil || port == "" {
					return usageError{ui.WithHint(fmt.Errorf("--coordinator %q is not host:port", o.Address), "name the port too, as in cinnabar.zt:7443")}
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return ui.WithHint(err, fmt.Sprintf("see %q", c.CommandPath()+" --help"))
	})
	buildinfo.AddFlag(root)
	f := root.PersistentFlags()
	f.StringVar(&o.Dir, "dir", o.Getenv("FLEET_DIR"), "fleet's `repository` (default: nearest directory upwards with fleet.yaml)")
	f.StringVarP(&o.Output, "output", "o", string(ui.FormatTable), "`format` of results: table or json")
	f.StringVar(&o.Identity, "identity", "", "`file` of age identities that open the repository's keys")
	f.StringVar(&o.Key, "key", "", "sign with this `key` only: a file of trust/keys, or ssh-agent:FINGERPRINT")
	f.StringVar(&o.Address, "coordinator", o.Getenv("FLEET_COORDINATOR"), "coordinator's `host:port` (default: the one in fleet.yaml)")
	f.DurationVar(&o.CallTimeout, "timeout", 20*time.Second, "how long to wait for one answer of the coordinator")
	// What the environment says is no default of the program.
	f.Lookup("dir").DefValue, f.Lookup("coordinator").DefValue = "", ""
	root.AddCommand(commands(o)...)
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

// usageError is a mistake on the command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// showError writes an error and its hint to Stderr.
func showError(o *options, err error) {
	_, _ = fmt.Fprintf(o.Stderr, "fleetctl: %v\n", err)
	hints := ui.Hints(err)
	if refused := (*release.Refusal)(nil); len(hints) == 0 && errors.As(err, &refused) && refused.Hint() != "" {
		hints = []string{refused.Hint()}
	}
	if usage := (usageError{}); len(hints) == 0 && errors.As(err, &usage) {
		hints = []string{`see "fleetctl --help"`}
	}
	for _, hint := range hints {
		_, _ = fmt.Fprintf(o.Stderr, "  hint: %s\n", hint)
	}
}

// exitCode turns an error into the documented exit code.
func exitCode(err error) int {
	var usage usageError
	var refused *release.Refusal
	switch {
	case errors.As(err, &usage):
		return exitUsage
	// An alarm, whatever failed beside it.
	case errors.Is(err, errStrange), errors.Is(err, errLost):
		return exitRefused
	case errors.Is(err, client.ErrConflict), errors.Is(err, repo.ErrLocked), errors.Is(err, vars.ErrLocked):
		return exitConflict
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, client.ErrRefused), errors.Is(err, publisher.ErrAlarm), errors.Is(err, generate.ErrReaders), errors.As(err, &refused):
		return exitRefused
	}
	return exitError
}
