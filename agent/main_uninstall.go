package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// uninstallOptions are those of "uninstall".
type uninstallOptions struct {
	*options
	purge, force bool
	// person says that somebody is there to be asked.
	person func() bool
}

func newUninstallCommand(o *options) *cobra.Command {
	u := &uninstallOptions{options: o, person: func() bool { return ui.OnTerminal(o.stdin) && ui.OnTerminal(o.stdout) }}
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the agent and remove its service",
		Long: `Stop the agent, and remove its service and the copy of the program that install
made. What the host's generations installed goes on running. The state stays, so
that the agent that is installed next is the same host and need not enrol.

--purge removes the agent's state directory too, after a person has typed the
machine's name: its identity is gone then, and only a new join string makes this
machine a host of the fleet again. Bundles, plugins' data and secrets stay, because
services use them.

While a generation is being activated, verified or rolled back this is refused
(exit code 3): nobody would finish it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUninstall(cmd.Context(), u) },
	}
	f := c.Flags()
	f.BoolVar(&u.purge, "purge", false, "remove the agent's state too; asks for the machine's name on the terminal")
	f.BoolVar(&u.force, "force", false, "also where a generation is on its way, or another program made the service")
	return c
}

func runUninstall(ctx context.Context, o *uninstallOptions) error {
	h, err := o.host()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	state := o.stateDir
	switch rec, err := h.Record(serviceName); {
	case err == nil:
		state = rec.State
	case errors.Is(err, service.ErrForeign) && o.force:
	default:
		return err //nolint:wrapcheck // It says what failed.
	}
	dir := filepath.Join(h.Root, state)
	if !o.force {
		if err := mayLeave(dir); err != nil {
			return err
		}
	}
	if o.purge {
		if err := o.confirmPurge(dir, state); err != nil {
			return err
		}
	}
	done, err := h.Uninstall(ctx, serviceName, o.force, deadManService, secretsService)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	r := done.Report(serviceName)
	if mountedSecrets() {
		r.Next = append(r.Next, "secrets below "+filepath.Dir(defaultSecretsDir)+" are in memory, and gone after a boot: what reads them needs an agent here by then")
	}
	if o.purge {
		if err := purge(dir); err != nil {
			return fmt.Errorf("the service is removed, its state is not: %w", err)
		}
		places := secrets.Places{Run: filepath.Join(h.Root, "/run"), Activation: filepath.Join(h.Root, activationPlace), Root: defaultSecretsDir}
		if err := places.Leave(); err != nil {
			return fmt.Errorf("the state is removed, links to its secrets are not: %w", err)
		}
		r.Did = append(r.Did, "removed "+state)
	} else if _, err := os.Stat(dir); err == nil {
		r.Did = append(r.Did, "kept "+state+", with this host's identity: the agent that is installed next goes on from there")
		r.Next = append(r.Next, "to remove that as well: rm -r "+state)
	}
	return o.sayDone(r)
}

// mayLeave refuses to leave a host that somebody must finish something on.
func mayLeave(dir string) error {
	const hint = "wait until fleet-agent status says that it is done, or let --force leave the host as it is"
	running, err := execute.Running(filepath.Join(dir, runsDir))
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if len(running) > 0 {
		return control.NotPossible(hint, "run %s goes on", running[0])
	}
	st, err := journal.Read(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return ui.WithHint(fmt.Errorf("whether a generation is on its way can't be told: %w", err), "let --force remove the service all the same")
	}
	for name, p := range st.Profiles {
		switch p.Phase {
		case journal.PhaseActivating, journal.PhaseActivated, journal.PhaseRollingBack:
			return control.NotPossible(hint, "%s is %s", name, p.Phase)
		case journal.PhaseIdle, journal.PhaseAccepted, journal.PhaseStaged, journal.PhaseVerified, journal.PhaseConfirmed,
			journal.PhaseRolledBack, journal.PhaseStuck, journal.PhaseFailed:
		}
	}
	return nil
}

// confirmPurge asks the person at the terminal.
func (o *uninstallOptions) confirmPurge(dir, state string) error {
	if !o.person() {
		return ui.WithHint(errors.New("--purge wants a person who confirms it on a terminal"),
			"uninstall without it, and remove "+state+" by hand")
	}
	st, err := offlineStatus(dir)
	if err != nil {
		// Whatever else is there must not be removed by a mistake in a flag.
		return ui.WithHint(fmt.Errorf("%s has no journal of an agent: %w", state, err), "look at what is there; nothing was removed")
	}
	name := fallback(string(st.Machine), "not enrolled")
	_, _ = fmt.Fprintf(o.stdout, "This removes the identity of %s and all that the agent knows (%s). Type %q to go on: ", name, state, name)
	line, err := bufio.NewReader(o.stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(line) != name {
		return ui.WithHint(errors.New("that is another name: nothing was removed"), "uninstall without --purge keeps the state")
	}
	return nil
}

// purge removes a state directory, its identity first.
func purge(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, identityDir)); err != nil {
		return fmt.Errorf("removing the identity: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the state: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(dir)) //nolint:wrapcheck // It names the directory.
}
