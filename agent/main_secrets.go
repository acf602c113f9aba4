package agent

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
)

// Where decrypted secrets are kept.
const (
	secretsInMemory = "memory"
	secretsOnDisk   = "disk"
)

// Who owns /run/secrets.
const (
	runSecretsAgent   = "agent"
	runSecretsClosure = "closure"
	// sopsKey is where sops-nix looks for a machine's key.
	sopsKey = "/var/lib/sops-nix/key.txt"
	// activationPlace is where activation scripts look for theirs.
	activationPlace = "/var/lib/sops-nix/activation"
)

func newRestoreSecretsCommand(o *options) *cobra.Command {
	ro := &runOptions{options: o}
	var early bool
	c := &cobra.Command{
		Use:   "restore-secrets",
		Short: "Make the secrets of what this host runs anew, as is due at a boot",
		Long: `Make the secrets of what this host runs, and of what it may go back to, anew, from
ciphertext that is on the host: no network and no agent is needed. Secrets are kept
in memory, which a boot empties; what is there already stays as it is.

It is for a unit early at the boot. With --early, before users are made, it makes
only what is needed for them. Flags are those that the agent runs with.`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return ro.check() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := ro.log()
			if err != nil {
				return err
			}
			dir, memory, err := ro.secretsPlace()
			if err != nil {
				return err
			}
			return RestoreSecrets(cmd.Context(), Config{
				StateDir: o.stateDir, SecretsDir: dir, SecretsInMemory: memory, SecretsPlaces: ro.secretsPlaces(), AgeIdentity: ro.ageIdentity, Log: log,
			}, early)
		},
	}
	ro.flags(c)
	c.Flags().BoolVar(&early, "early", false, "make only what is needed before there are users")
	return c
}

// secretsPlace is the link to the secrets, and whether they are kept in memory.
func (o *runOptions) secretsPlace() (dir string, memory bool, err error) {
	dir, err = o.directory(o.secretsDir, defaultSecretsDir, "secrets")
	return dir, o.secretsIn == secretsInMemory, err
}

// secretsPlaces are where configurations look for secrets, if those are the agent's.
func (o *runOptions) secretsPlaces() secrets.Places {
	if o.runSecrets == runSecretsAgent {
		return secrets.Places{Run: "/run", Activation: activationPlace}
	}
	return secrets.Places{}
}

// secretsKey is the file that closures open their secrets with, if they do.
func (o *runOptions) secretsKey() string {
	if o.runSecrets == runSecretsClosure {
		return sopsKey
	}
	return ""
}

// mountedSecrets says whether the system's secrets are in memory.
func mountedSecrets() bool { return secrets.InMemory(defaultSecretsDir) }

// systemctl is the program that restarts units; empty where systemd is not what runs the
// host.
func systemctl() string {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return ""
	}
	for _, dir := range []string{"/run/current-system/sw/bin", "/usr/bin", "/bin"} {
		if path := filepath.Join(dir, "systemctl"); isFile(path) {
			return path
		}
	}
	return ""
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// checkSecretsIn finds mistakes in where secrets are to be kept.
func (o *runOptions) checkSecretsIn() error {
	switch o.secretsIn {
	case secretsInMemory, secretsOnDisk:
	default:
		return fmt.Errorf("--secrets-in %q: want %s or %s", o.secretsIn, secretsInMemory, secretsOnDisk)
	}
	switch o.runSecrets {
	case "", runSecretsAgent, runSecretsClosure:
		return nil
	}
	return fmt.Errorf("--run-secrets %q: want %s or %s", o.runSecrets, runSecretsAgent, runSecretsClosure)
}
