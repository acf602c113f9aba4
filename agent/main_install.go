package agent

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cameronraysmith/fleet/agent/internal/identity"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

const (
	// serviceName is the agent's name for service managers.
	serviceName     = "fleet-agent"
	defaultJoinFile = "/etc/fleet/join"
	// secretsService makes secrets anew after a boot.
	secretsService = "fleet-secrets"
	// deadManService goes on with switches after a boot.
	deadManService = "fleet-dead-man"
)

var (
	//go:embed units/fleet-agent.service
	unitTemplate string
	//go:embed units/fleet-secrets.service
	secretsTemplate string

	//go:embed units/fleet-dead-man.service
	deadManTemplate string
	//go:embed units/fleet-agent.plist
	plistTemplate string
	//go:embed units/fleet-dead-man.plist
	deadManPlistTemplate string
)

// installOptions are those of "install".
type installOptions struct {
	*runOptions
	program     string
	force, idle bool
	// executable is this program.
	executable func() (string, error)
}

func newInstallCommand(o *options) *cobra.Command {
	io := &installOptions{runOptions: &runOptions{options: o}, executable: os.Executable}
	c := &cobra.Command{
		Use:   "install",
		Short: "Install the agent as a service of this host, and start it",
		Long: `Install the agent as a service of this host (systemd, launchd), have it start
with the system, start it, and wait until it is up. All flags that "run" has may
be given, and become those of the service; every user of the machine can read
them.

The service runs a copy of this program at --program, so that neither a garbage
collection nor a build takes it away. Installing again with other flags, or from
another version, replaces what is different and restarts the agent, which
interrupts no activation; where nothing is different, nothing is done.

The join string comes from --join-file, or with "--join-file -" from standard
input, and is kept in ` + defaultJoinFile + ` then:

  fleetctl token web1 | ssh root@web1 fleet-agent install --join-file -

On NixOS and nix-darwin use the module instead.`,
		Args:    cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error { return io.checkInstall() },
		RunE:    func(cmd *cobra.Command, _ []string) error { return runInstall(cmd.Context(), io, cmd.Flags()) },
	}
	io.runFlags(c)
	f := c.Flags()
	f.Lookup("join-file").Usage = "`file` with the join string, or - for standard input (default: " + defaultJoinFile + ")"
	f.StringVar(&io.program, "program", "", "`path` of the program that the service runs (default: below /usr/local/bin, on a Mac below "+service.MacPrograms+")")
	f.BoolVar(&io.force, "force", false, "replace a service that this program did not install, and install on NixOS")
	f.BoolVar(&io.idle, "no-start", false, "leave an agent that does not run as it is")
	return c
}

// checkInstall finds mistakes on the command line, before anything is changed.
func (o *installOptions) checkInstall() error {
	if err := o.checkRun(); err != nil {
		return err
	}
	for flag, path := range map[string]*string{
		"--join-file": &o.joinFile, "--age-identity": &o.ageIdentity, "--freshness-key": &o.freshness.Key,
		"--freshness-repository": &o.freshness.Repository, "--bundle-dir": &o.bundleDir, "--plugin-dir": &o.pluginDir,
		"--secrets-dir": &o.secretsDir, "--program": &o.program, "--state-dir": &o.stateDir, "--run-dir": &o.runDir,
	} {
		if *path == "" || *path == "-" && flag == "--join-file" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		if err := service.PlainPath(flag, abs); err != nil {
			return err //nolint:wrapcheck // It names the flag.
		}
		*path = abs
	}
	for flag, file := range map[string]string{"--age-identity": o.ageIdentity, "--freshness-key": o.freshness.Key, "--freshness-repository": o.freshness.Repository} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("%s: the service would not start without it: %w", flag, err)
		}
	}
	for _, text := range append(slices.Clone(o.env), o.path, o.maxJobs) {
		if err := service.Plain("--env, --path or --nix-max-jobs", text); err != nil {
			return err //nolint:wrapcheck // It says what failed.
		}
	}
	return nil
}

func runInstall(ctx context.Context, o *installOptions, flags *pflag.FlagSet) error {
	h, err := o.host()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if o.program == "" {
		o.program = h.DefaultProgram(serviceName)
	}
	exe, err := service.Self(o.executable)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	var join *pki.Join
	if o.joinFile == "-" {
		if join, err = o.readJoinString(); err != nil {
			return err
		}
	}
	if o.joinFile == "" || o.joinFile == "-" {
		o.joinFile = defaultJoinFile
	}
	args := o.serviceArgs(flags)
	// Nothing is kept where nothing may be installed, and the agent finds the join
	// string when it starts.
	before := func() error { return keepJoin(filepath.Join(h.Root, o.joinFile), join) }
	done, err := h.Install(ctx, service.Definition{
		Service: serviceName, Program: o.program, From: exe, State: o.stateDir, Force: o.force, Idle: o.idle, Before: before,
		Text:   func(r service.Record) (string, error) { return o.definition(h, r.String(), args) },
		Beside: append(deadManBeside(h), o.secretsBeside(h, flags)...),
	})
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	r := done.Report(serviceName)
	r.Next = append(r.Next, o.nextSteps(h, join != nil)...)
	return o.sayDone(r)
}

// readJoinString reads and checks what standard input has.
func (o *installOptions) readJoinString() (*pki.Join, error) {
	text, err := readJoin(o.stdin)
	if err != nil {
		return nil, err
	}
	join, err := pki.ParseJoin(text)
	if err != nil {
		return nil, ui.WithHint(fmt.Errorf("the join string on standard input: %w", err), joinHint)
	}
	return &join, nil
}

// keepJoin writes a join string where the service finds it.
func keepJoin(file string, join *pki.Join) error {
	if join == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // It may have other things; the file is for root.
		return fmt.Errorf("keeping the join string: %w", err)
	}
	if err := atomicfile.WriteFile(file, []byte(join.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("keeping the join string: %w", err)
	}
	return nil
}

// nextSteps say what is to be done until the host follows its fleet.
func (o *installOptions) nextSteps(h service.Host, joins bool) []string {
	status := "fleet-agent status tells where this host is"
	if o.stateDir != defaultStateDir {
		status = "fleet-agent status --state-dir " + o.stateDir + " tells where this host is"
	}
	_, err := identity.ReadBinding(filepath.Join(h.Root, o.stateDir, identityDir))
	_, statErr := os.Stat(filepath.Join(h.Root, o.joinFile))
	switch {
	case err == nil || joins || statErr == nil:
		return []string{status}
	default:
		return []string{
			"it has no join string yet: fleetctl token MACHINE | ssh root@HOST fleet-agent install --join-file -",
			status,
		}
	}
}

// serviceArgs are the arguments of "run" that the flags amount to.
func (o *installOptions) serviceArgs(flags *pflag.FlagSet) []string {
	run := &cobra.Command{}
	(&runOptions{options: o.options}).runFlags(run)
	var args []string
	add := func(name, value string) { args = append(args, "--"+name, value) }
	if o.stateDir != defaultStateDir {
		add("state-dir", o.stateDir)
	}
	if o.runDir != defaultRunDir {
		add("run-dir", o.runDir)
	}
	add("join-file", o.joinFile)
	run.Flags().VisitAll(func(f *pflag.Flag) {
		given := flags.Lookup(f.Name)
		if given == nil || !given.Changed || f.Name == "join-file" {
			return
		}
		if many, ok := given.Value.(pflag.SliceValue); ok {
			for _, v := range many.GetSlice() {
				add(f.Name, v)
			}
			return
		}
		if given.Value.Type() == "bool" {
			args = append(args, "--"+f.Name+"="+given.Value.String())
			return
		}
		add(f.Name, given.Value.String())
	})
	return args
}

// definition is the unit or the property list.
func (o *installOptions) definition(h service.Host, mark string, args []string) (string, error) {
	if h.Launchd() {
		var lines []string
		for _, a := range args {
			lines = append(lines, "\t\t<string>"+service.XML(a)+"</string>")
		}
		return service.Fill(plistTemplate, map[string]string{ //nolint:wrapcheck // It says what failed.
			"MARK": mark, "LABEL": service.Label(serviceName), "PROGRAM": service.XML(o.program),
			"ARGS": strings.Join(lines, "\n"), "LOG": service.LogFile(serviceName),
		})
	}
	state := ""
	if o.stateDir == defaultStateDir {
		state = "fleet"
	}
	run, below := strings.CutPrefix(o.runDir, systemRunDir+"/")
	if !below {
		run = "" // the agent makes it
	}
	return service.Fill(unitTemplate, map[string]string{ //nolint:wrapcheck // It says what failed.
		"MARK": mark, "PROGRAM": o.program, "ARGS": service.UnitArgs(args), "MOUNTS": o.stateDir,
		"STATE_DIRECTORY": state, "RUNTIME_DIRECTORY": run,
	})
}

// deadManBeside is the service that is installed beside the agent's.
func deadManBeside(h service.Host) []service.Beside {
	return []service.Beside{{Service: deadManService, Text: func(r service.Record) (string, error) {
		values := map[string]string{"MARK": r.String(), "STATE": r.State}
		if !h.Launchd() {
			return service.Fill(deadManTemplate, values) //nolint:wrapcheck // It says what failed.
		}
		values["LABEL"], values["LOG"] = service.Label(deadManService), service.LogFile(deadManService)
		return service.Fill(deadManPlistTemplate, values) //nolint:wrapcheck // As above.
	}}}
}

// secretsBeside is the unit that makes secrets anew after a boot; a Mac's are on its disk.
func (o *installOptions) secretsBeside(h service.Host, flags *pflag.FlagSet) []service.Beside {
	if h.Launchd() {
		return nil
	}
	var args []string
	for _, name := range []string{"state-dir", "secrets-dir", "secrets-in", "run-secrets", "age-identity"} {
		if f := flags.Lookup(name); f != nil && (f.Changed || name == "state-dir" && o.stateDir != defaultStateDir) {
			args = append(args, "--"+name, f.Value.String())
		}
	}
	return []service.Beside{{Service: secretsService, Text: func(r service.Record) (string, error) {
		return service.Fill(secretsTemplate, map[string]string{ //nolint:wrapcheck // It says what failed.
			"MARK": r.String(), "COMMAND": strings.TrimSpace(o.program + " restore-secrets " + service.UnitArgs(args)), "MOUNTS": r.State,
		})
	}}}
}

// sayDone shows what a command about the service did.
func (o *options) sayDone(r service.Report) error {
	if p := o.printer(); p.JSON() {
		return p.Value(r) //nolint:wrapcheck // Of the output.
	}
	return r.Write(o.stdout) //nolint:wrapcheck // It says what failed.
}
