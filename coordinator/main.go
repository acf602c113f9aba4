package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// maxKeyFile bounds the file with the age identities, in bytes.
const maxKeyFile = 64 << 10

// options are the flags of "run".
type options struct {
	kit, kitKey, listen, stateDir, addressFile, logFormat string
	maxBlob, minFree                                      uint64
}

// flags are those of "run" that are a service's too.
func (o *options) flags(f *pflag.FlagSet) {
	f.StringVar(&o.kit, "kit", "", "start-up kit `FILE`")
	f.StringVar(&o.kitKey, "kit-key", "", "`FILE` with the age identity that opens the kit")
	f.StringVar(&o.stateDir, "state-dir", "", "`DIR` for the store and blobs; made where it is missing")
	f.StringVar(&o.listen, "listen", ":7443", "`ADDRESS` to listen on, host:port; port 0 takes a free one")
	f.StringVar(&o.logFormat, "log-format", "text", "format of the log on standard output: text or json")
	f.Uint64Var(&o.maxBlob, "max-blob-bytes", 0, "largest blob that is taken, in bytes; 0 is 8 GiB")
	f.Uint64Var(&o.minFree, "min-free-bytes", 0, "what uploads leave free on the disk, in bytes; 0 is 256 MiB")
}

// Main runs the program with these arguments and returns its exit code: 0
// after an orderly stop by SIGINT or SIGTERM, 1 after an error, 2 where the
// arguments are wrong.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return MainContext(ctx, args, stdout, stderr)
}

// MainContext is Main until ctx ends, for who runs the program in a process of
// its own making.
func MainContext(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return here.main(ctx, args, stdout, stderr)
}

// main is MainContext on a system.
func (s system) main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	usage := true
	cmd := newCommand(stdout, s, func() { usage = false })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if ran, err := cmd.ExecuteContextC(ctx); err != nil {
		_, _ = fmt.Fprintf(stderr, "fleet-coordinator: %v\n", err)
		if usage {
			_, _ = fmt.Fprintf(stderr, "  hint: see %q\n", ran.CommandPath()+" --help")
			return 2
		}
		if hint := ui.HintOf(err); hint != "" {
			_, _ = fmt.Fprintf(stderr, "  hint: %s\n", hint)
		}
		return 1
	}
	return 0
}

// newCommand makes the command line; began is called when the arguments are
// right.
func newCommand(stdout io.Writer, system system, began func()) *cobra.Command {
	root := &cobra.Command{
		Use:           "fleet-coordinator",
		Short:         "Keeps a fleet's signed releases and what its hosts report",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	buildinfo.AddFlag(root)
	var o options
	run := &cobra.Command{
		Use:   "run --kit FILE --kit-key FILE --state-dir DIR",
		Short: "Run the coordinator until it gets SIGTERM or SIGINT",
		Long: `Run the coordinator until it gets SIGTERM or SIGINT.

The kit is made by "fleetctl init". The state directory may be lost: hosts
report what they run, and publishing again brings the rest back.

Exit codes: 0 stopped in order, 1 error, 2 wrong arguments.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := newLog(stdout, o.logFormat)
			if err != nil {
				return err
			}
			began()
			return run(cmd.Context(), o, log)
		},
	}
	o.flags(run.Flags())
	run.Flags().StringVar(&o.addressFile, "address-file", "", "`FILE` to write the address to, once listening")
	for _, name := range []string{"kit", "kit-key", "state-dir"} {
		// Fails only for a flag that is not there.
		_ = run.MarkFlagRequired(name)
	}
	root.AddCommand(serviceCommands(stdout, system, began)...)
	root.AddCommand(run, newBackupCommand(stdout, began), newRestoreCommand(os.Stdin, stdout, began), newVersionCommand(stdout, began))
	return root
}

func newVersionCommand(stdout io.Writer, began func()) *cobra.Command {
	output := string(ui.FormatTable)
	c := &cobra.Command{
		Use: "version", Short: "Show the program's version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			format, err := ui.ParseFormat(output)
			if err != nil {
				return err
			}
			began()
			p := ui.NewPrinter(stdout, format, false)
			if p.JSON() {
				return p.Value(buildinfo.Of())
			}
			p.Printf("%s\n", buildinfo.Text("fleet-coordinator"))
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", output, "table or json")
	return c
}

func newLog(w io.Writer, format string) (*slog.Logger, error) {
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, nil)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", format)
}

func run(ctx context.Context, o options, log *slog.Logger) error {
	supervisor, err := watchdog.FromEnvironment(log)
	if err != nil {
		return fmt.Errorf("starting the coordinator: %w", err)
	}
	k, err := openKit(o.kit, o.kitKey)
	if err != nil {
		return err
	}
	co, err := New(ctx, Config{
		Kit: k, Supervisor: supervisor, StateDir: o.stateDir, Listen: o.listen, MaxBlobBytes: o.maxBlob, MinFreeBytes: o.minFree, Log: log,
	})
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		// Asked to end while it starts: no failure for who supervises it.
		log.Info("stopped before it had started")
		return nil //nolint:nilerr // See above.
	}
	if err != nil {
		return err
	}
	address := co.Addr().String()
	if o.addressFile != "" {
		if err := atomicfile.WriteFile(o.addressFile, []byte(address+"\n"), 0o644); err != nil {
			return errors.Join(err, co.Close())
		}
	}
	log.Info("listening", "address", address, "fleet", string(k.Fleet))
	err = co.Run(ctx)
	log.Info("stopped")
	return err
}

// openKit reads and decrypts the kit.
func openKit(kitFile, keyFile string) (*kit.Kit, error) {
	key, err := os.Open(keyFile) //nolint:gosec // The operator names the file.
	if err != nil {
		return nil, fmt.Errorf("reading the key of the kit: %w", err)
	}
	identities, err := age.ParseIdentities(io.LimitReader(key, maxKeyFile))
	if err = errors.Join(err, key.Close()); err != nil {
		return nil, fmt.Errorf("reading the key of the kit %s: %w", keyFile, err)
	}
	f, err := os.Open(kitFile) //nolint:gosec // The operator names the file.
	if err != nil {
		return nil, fmt.Errorf("reading the kit: %w", err)
	}
	sealed, err := io.ReadAll(io.LimitReader(f, 2*kit.MaxBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading the kit: %w", err)
	}
	return kit.Open(sealed, identities...)
}
