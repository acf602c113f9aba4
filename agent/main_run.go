package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/console"
	"github.com/cameronraysmith/fleet/agent/internal/permission"
	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/ui"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// runOptions are those of the commands that are an agent.
type runOptions struct {
	*options
	bundleDir, secretsDir string
	secretsIn, runSecrets string
	pluginDir             string
	joinFile              string
	coordinator           []string
	caPins                []string
	rootPin               string
	pins                  Pins // of the two above, once they are checked
	observe               bool
	ageIdentity           string
	poll                  time.Duration
	env                   []string
	path                  string
	maxJobs               string
	skipChecks            []string
	freshness             Freshness
	deadManMargin         time.Duration
	logFormat, logLevel   string
	supervisor            *watchdog.Supervisor
}

func (o *runOptions) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.bundleDir, "bundle-dir", "", "`directory` of unpacked bundles and their services' state (default: /var/lib/fleet/bundles; with a --state-dir of its own, bundles below that, where bundles of homes can't run, because only the agent's user may look into it)")
	f.StringVar(&o.pluginDir, "plugin-dir", "", "`directory` of what driver plugins keep (default: /var/lib/fleet/plugins; with a --state-dir of its own, plugin-state below that)")
	f.StringVar(&o.secretsDir, "secrets-dir", "", "`link` to the decrypted secrets (default: /var/lib/fleet/secrets; with a --state-dir of its own, secrets below that)")
	f.StringVar(&o.runSecrets, "run-secrets", "", "`owner` of /run/secrets: agent, whose links lead to its own, or closure, for which "+sopsKey+" is made where there is none (default: both are left alone)")
	f.StringVar(&o.secretsIn, "secrets-in", secretsOnDisk, "`place` that they are kept in: disk, or memory (never swapped on Linux, a RAM disk on a Mac), which a boot empties: the service fleet-secrets, or the agent, makes them anew")
	f.StringVar(&o.joinFile, "join-file", "", "`file` with the join string, while the host is not enrolled")
	f.StringSliceVar(&o.coordinator, "coordinator", nil, "coordinator's `host:port`, instead of those of the join string; may be repeated")
	f.StringSliceVar(&o.caPins, "ca-pin", nil, "`digest` of a CA that the join string may name, as fleetctl trust show prints it; may be repeated (default: any)")
	f.StringVar(&o.rootPin, "root-pin", "", "`digest` of the trust root that the join string must name, the pin of fleetctl trust show (default: any)")
	f.StringVar(&o.ageIdentity, "age-identity", "", "`file` with the machine's age identity, or an SSH private key without a passphrase (default: one is made, and sent when enrolling)")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
}

func newRunCommand(o *options) *cobra.Command {
	ro := &runOptions{options: o}
	c := &cobra.Command{
		Use:   "run",
		Short: "Be the agent of this host",
		Long: `Be the agent of this host, until SIGTERM or SIGINT. An activation in flight goes
on without the agent, and the next one takes it up. Only where the host is shut down
it is ended, in order; what makes a verified system the one that boots is waited for.`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return ro.checkRun() },
		RunE:    func(cmd *cobra.Command, _ []string) error { return runRun(cmd.Context(), ro) },
	}
	ro.runFlags(c)
	return c
}

// runFlags are those of "run".
func (o *runOptions) runFlags(c *cobra.Command) {
	o.flags(c)
	f := c.Flags()
	f.BoolVar(&o.observe, "observe", false, "activate nothing, whatever the policy says")
	f.DurationVar(&o.poll, "poll-interval", DefaultPollInterval, "how long to rely on the coordinator's hints before asking")
	f.StringArrayVar(&o.env, "env", nil, "`NAME=VALUE` for activations and probes; may be repeated")
	f.StringVar(&o.freshness.Key, "freshness-key", "", "`file` with the key of the freshness role: state what is the newest, for all machines")
	f.StringVar(&o.freshness.Repository, "freshness-repository", "", "checkout of the fleet's `repository` that this is read from")
	f.DurationVar(&o.freshness.Interval, "freshness-interval", DefaultFreshnessInterval, "how often that is stated; each statement counts six times as long")
	f.DurationVar(&o.deadManMargin, "dead-man-margin", defaultMargin, "how long after the deadlines of activation and verification the host goes back although no agent says so")
	f.StringVar(&o.path, "path", "", "PATH for nix and for the programs of generations")
	f.StringSliceVar(&o.skipChecks, "skip-check", nil, "`permission` of macOS that is not tried before activations: "+strings.Join(permission.Names, " or ")+"; may be repeated")
	f.StringVar(&o.maxJobs, "nix-max-jobs", "", "`number` of derivations that nix builds at a time, or auto (default: what nix is configured to)")
}

// checkRun finds mistakes in the flags of "run".
func (o *runOptions) checkRun() error {
	if o.poll <= 0 {
		return fmt.Errorf("--poll-interval %s: want more than nothing", o.poll)
	}
	if o.deadManMargin <= 0 {
		return fmt.Errorf("--dead-man-margin %s: want more than nothing", o.deadManMargin)
	}
	if _, err := strconv.ParseUint(o.maxJobs, 10, 16); err != nil && o.maxJobs != "" && o.maxJobs != "auto" {
		return fmt.Errorf("--nix-max-jobs %q: want a number or auto", o.maxJobs)
	}
	for _, name := range o.skipChecks {
		if !slices.Contains(permission.Names, name) {
			return fmt.Errorf("--skip-check %q: want %s", name, strings.Join(permission.Names, " or "))
		}
	}
	if err := o.freshness.check(); err != nil {
		return err
	}
	return o.check()
}

func newEnrolCommand(o *options) *cobra.Command {
	ro := &runOptions{options: o}
	c := &cobra.Command{
		Use:   "enrol [JOIN]",
		Short: "Turn a join string into a host identity",
		Long: `Turn a join string, as fleetctl token prints it, into a host identity, and end.
It is good for whoever uses it first, and the arguments of a process can be read
by every user of the machine: so let JOIN be "-", which reads a line of standard
input, or use --join-file.`,
		Args:    cobra.MaximumNArgs(1),
		PreRunE: func(*cobra.Command, []string) error { return ro.check() },
		RunE:    func(cmd *cobra.Command, args []string) error { return runEnrol(cmd.Context(), ro, args) },
	}
	ro.flags(c)
	return c
}

// check finds mistakes on the command line before anything starts.
func (o *runOptions) check() error {
	if _, err := o.log(); err != nil {
		return err
	}
	for _, a := range o.coordinator {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("--coordinator %q: want host:port", a)
		}
	}
	if err := o.checkSecretsIn(); err != nil {
		return err
	}
	var err error
	if o.pins, err = parsePins(o.caPins, o.rootPin); err != nil {
		return err
	}
	for _, e := range o.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return fmt.Errorf("--env %q: want NAME=VALUE", e)
		}
	}
	return nil
}

func (o *runOptions) log() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
	}
	ho := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(o.stderr, ho)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(o.stderr, ho)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", o.logFormat)
}

// directory makes a directory flag absolute, with its default.
func (o *runOptions) directory(flag, system, below string) (string, error) {
	switch {
	case flag != "":
		abs, err := filepath.Abs(flag)
		if err != nil {
			return "", fmt.Errorf("finding directory: %w", err)
		}
		return abs, nil
	case o.stateDir == defaultStateDir:
		return system, nil
	}
	return filepath.Join(o.stateDir, below), nil
}

// agent makes the agent that the flags describe.
func (o *runOptions) agent(ctx context.Context, join string) (*Agent, error) {
	log, err := o.log()
	if err != nil {
		return nil, err
	}
	bundles, err := o.directory(o.bundleDir, defaultBundleDir, "bundles")
	if err != nil {
		return nil, err
	}
	secretsDir, inMemory, err := o.secretsPlace()
	if err != nil {
		return nil, err
	}
	plugins, err := o.directory(o.pluginDir, defaultPluginDir, pluginStateDir)
	if err != nil {
		return nil, err
	}
	runner, err := runnerCommand()
	if err != nil {
		return nil, err
	}
	unit, own := ownService(ctx, log)
	dead, err := o.deadMan(log, unit)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Dir(bundles), filepath.Dir(plugins), filepath.Dir(secretsDir)} {
		if dir == o.stateDir {
			continue // the agent makes it, closed to others
		}
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // Services of other users look into it.
			return nil, fmt.Errorf("making directory: %w", err)
		}
	}
	return New(Config{
		StateDir: o.stateDir, RunDir: o.runDir, SecretsDir: secretsDir, SecretsInMemory: inMemory, SecretsPlaces: o.secretsPlaces(), SecretsKey: o.secretsKey(),
		Join: join, JoinFile: o.joinFile, Pins: o.pins, Coordinator: o.coordinator, Observe: o.observe,
		Freshness: o.freshness, AgeIdentity: o.ageIdentity, Runner: runner, DeadMan: dead, Service: own, Reboot: rebooter(dead), Units: hostUnits(dead), Stopping: stopping(dead), Systemctl: systemctl(), Console: console.Here([]string{runner[0], tellCommand}), ExtraEnv: o.env,
		Plugins:    PluginConfig{Dir: plugins},
		Supervisor: o.supervisor, Activity: o.tuneRuntime, PollInterval: o.poll, Version: buildinfo.Version(), Now: o.now, ClockSynced: o.clockSynced, Log: log,
		OpenDrivers: func() (map[string]driver.Driver, func() error, error) { return o.openDrivers(bundles) },
	})
}

func runRun(ctx context.Context, o *runOptions) error {
	TuneRuntime(true)
	log, err := o.log()
	if err != nil {
		return err
	}
	if o.supervisor, err = watchdog.FromEnvironment(log); err != nil {
		return fmt.Errorf("starting agent: %w", err)
	}
	a, err := o.agent(ctx, "")
	if err != nil {
		return err
	}
	if !o.clockSynced() {
		a.config.Log.Info("nothing says that this host's clock is right (adjtimex): documents from the future are refused only after the trust root's end; chrony tells the kernel with rtcsync")
	}
	return a.Run(ctx)
}

const (
	// gcPercent while there is work: an activation must not wait for collections, each
	// of which takes as long as several flushes, and the heap is a few megabytes.
	gcPercent = 200
	// busyMemory bounds, softly, what comes of that where much is taken in at once.
	busyMemory = 64 << 20
	// idleMemory bounds, softly, what an idle agent's heap may grow to between
	// two collections.
	idleMemory = 16 << 20
)

// TuneRuntime has the process weigh little while it is idle: it gives back what
// work took, and does without the collection that the runtime makes every two
// minutes, which would be most of what an idle agent does.
func TuneRuntime(busy bool) {
	if busy {
		debug.SetMemoryLimit(busyMemory)
		debug.SetGCPercent(gcPercent)
		return
	}
	debug.SetMemoryLimit(idleMemory)
	debug.SetGCPercent(-1)
	debug.FreeOSMemory()
}

// tuneRuntime is TuneRuntime, without the limit where the host states what is the
// newest: the releases of a large fleet are more than that.
func (o *runOptions) tuneRuntime(busy bool) {
	TuneRuntime(busy)
	if busy && o.freshness.Key != "" {
		debug.SetMemoryLimit(math.MaxInt64)
	}
}

func runEnrol(ctx context.Context, o *runOptions, args []string) error {
	join := ""
	switch {
	case len(args) == 1 && args[0] == "-":
		var err error
		if join, err = readJoin(o.stdin); err != nil {
			return err
		}
	case len(args) == 1:
		join = args[0]
		_, _ = fmt.Fprintf(o.stderr, "fleet-agent: warning: other users of this machine can read the join string among the arguments of this process\n"+
			"  hint: give it on standard input (fleet-agent enrol -) or in a file (--join-file)\n")
	}
	if join = strings.TrimSpace(join); join == "" && len(args) == 1 {
		// Not what an earlier attempt left: who gives one means that one.
		return ui.WithHint(errors.New("the join string that was given is empty"), joinHint)
	}
	a, err := o.agent(ctx, join)
	if err != nil {
		return err
	}
	err = a.Enrol(ctx)
	if err == nil {
		if id, ierr := a.identity.Binding(); ierr == nil {
			o.printer().Printf("enrolled as %s of fleet %s\n", id.Machine, id.Fleet)
		}
	}
	return errors.Join(err, a.Close())
}

// readJoin reads a line, so that one who pastes it need not end the input.
func readJoin(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxJoinFileBytes)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading join string: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", ui.WithHint(errors.New("there is no join string on standard input"), "make one with fleetctl token")
	}
	return line, nil
}
