// Package agent is the program on every host: it pulls signed generations,
// builds, activates, checks, reports, and rolls back by itself. What to do
// next is decided by a pure function (internal/reconcile) and written to the
// journal before it is done, so that the agent may die at any point.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/console"
	"github.com/cameronraysmith/fleet/agent/internal/handover"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/watchdog"
)

// DefaultPollInterval is how long the agent relies on hints before it asks.
const DefaultPollInterval = 5 * time.Minute

// Config of an agent. Zero fields take the defaults that are named.
type Config struct {
	// StateDir holds all that must survive; one agent per directory. Absolute.
	StateDir string
	// RunDir holds the control socket. Absolute.
	RunDir string
	// SecretsPlaces are where configurations look for secrets, if the agent owns them: links
	// there lead to its own. Its Root is the agent's to know; no Run where others own them.
	SecretsPlaces secrets.Places
	// SecretsKey is the file in which systems that install secrets themselves look for the
	// machine's key: it is made where there is none. Empty for none.
	SecretsKey string
	// SecretsDir is the link to the decrypted secrets of the system profile;
	// other profiles have their name appended. Absolute.
	SecretsDir string
	// SecretsInMemory keeps what the link leads to in a file system of memory, mounted at
	// SecretsDir.d, where the host lets it; else, and where that is false, on the disk.
	SecretsInMemory bool
	// Join is a join string, JoinFile a file with one, read at each attempt.
	// Neither matters once the host is enrolled.
	Join, JoinFile string
	// Pins are of the fleet that a join string must be of; the zero value lets
	// the join string say it alone.
	Pins Pins
	// Coordinator overrides the addresses of the join string, host:port.
	Coordinator []string
	// Observe keeps the host in mode observe, whatever its policy says.
	Observe bool
	// Freshness has this agent state what is the newest, for all machines.
	Freshness Freshness
	// AgeIdentity is a file with the machine's age identity; empty: one is
	// made and sent at enrolment.
	AgeIdentity string
	// OpenDrivers is called once the state directory is this agent's alone, so
	// that a driver may tidy its own. The agent calls stop when it ends.
	OpenDrivers func() (drivers map[string]driver.Driver, stop func() error, err error)
	// Runner is the command that runs an action: its directory is appended.
	Runner []string
	// DeadMan is about the switch that goes back when no agent does.
	DeadMan DeadMan
	// Service is the service that the agent is the main process of; nil for none.
	Service *handover.Service
	// BootID tells one boot of the host from another; default the kernel's.
	BootID string
	// Reboot has the host rebooted, in order, and returns when that is under way; nil
	// where the agent can't.
	Reboot func(ctx context.Context) error
	// Units are those of the host's service manager, which are compared around a boot; nil
	// for none.
	Units Units
	// Stopping says whether the host is being shut down, when nothing that fails says
	// anything about what was activated; nil where nobody can tell.
	Stopping func(ctx context.Context) bool
	// Systemctl is the program (an absolute path) that restarts units; empty where the host
	// has no systemd.
	Systemctl string
	// Console is the host's screen and keyboard; nil for none.
	Console console.Console
	// ExtraEnv, NAME=VALUE, for activations and probes.
	ExtraEnv []string
	// PollInterval between looks without a hint; default DefaultPollInterval.
	PollInterval time.Duration
	// Version of the program.
	Version string
	// Now is wall time; default time.Now.
	Now func() time.Time
	// ClockSynced says whether Now is known to be right, such as by NTP; nil where
	// nobody knows.
	ClockSynced func() bool
	// Log; default none.
	Log *slog.Logger
	// DiskReserve is what fetching leaves free on the state directory's disk, in
	// bytes; default 64 MiB.
	DiskReserve uint64
	// Activity is told when work on generations begins, and that there is none
	// a little after it ended and now and then while that lasts, so that a
	// program can tune its runtime; optional. It must return at once.
	Activity func(busy bool)
	// Supervisor is told that the agent runs and makes progress; nil for nobody.
	Supervisor *watchdog.Supervisor
	// Retry bounds waiting between attempts; zero fields take defaults.
	Retry Retry
	// Correction bounds how soon what was made of a host by hand is undone, where the
	// policy has that; zero fields take defaults.
	Correction Correction
	// Plugins is about external drivers and probes.
	Plugins PluginConfig
	// BlobPace is the slowest transfer that is put up with; default
	// pace.Default.
	BlobPace pace.Limit
}

// Freshness is how an agent that holds the key of the freshness role states
// what is the newest. The zero value states nothing.
type Freshness struct {
	// Key is a file with the key: a PKCS #8 private key in PEM. Absolute.
	Key string
	// Repository is a checkout of the fleet's repository. Where it is a git
	// checkout, it is brought up to date before each statement. Absolute.
	Repository string
	// Interval between statements; default 2 hours. Each counts for six of them.
	Interval time.Duration
}

// DefaultFreshnessInterval is how often what is the newest is stated.
const DefaultFreshnessInterval = 2 * time.Hour

// Retry bounds waiting between attempts. Waits grow and are jittered.
type Retry struct {
	// First and Max wait for a coordinator that can't be reached, or for a
	// failed fetch or build; default 500 ms and 5 minutes.
	First, Max time.Duration
	// Slow is the wait after a refusal by the coordinator; default 5 minutes.
	Slow time.Duration
}

func (c Config) withDefaults() (Config, error) {
	for name, dir := range map[string]string{
		"state directory": c.StateDir, "run directory": c.RunDir, "secrets directory": c.SecretsDir,
	} {
		if !filepath.IsAbs(dir) {
			return c, fmt.Errorf("configuring agent: %s %q: want an absolute path", name, dir)
		}
	}
	if c.OpenDrivers == nil {
		return c, errors.New("configuring agent: there is no driver")
	}
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // Injected from here on.
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.BootID == "" {
		c.BootID = readBootID()
	}
	if c.DiskReserve == 0 {
		c.DiskReserve = defaultDiskReserve
	}
	c.SecretsDir = filepath.Clean(c.SecretsDir)
	if c.Plugins.Dir == "" {
		c.Plugins.Dir = c.below(pluginStateDir)
	}
	if !filepath.IsAbs(c.Plugins.Dir) {
		return c, fmt.Errorf("configuring agent: plugin directory %q: want an absolute path", c.Plugins.Dir)
	}
	setDefault(&c.DeadMan.Margin, defaultMargin)
	setDefault(&c.Correction.After, time.Minute)
	setDefault(&c.Correction.Pause, time.Hour)
	setDefault(&c.PollInterval, DefaultPollInterval)
	setDefault(&c.Freshness.Interval, DefaultFreshnessInterval)
	setDefault(&c.Retry.First, 500*time.Millisecond)
	setDefault(&c.Retry.Max, 5*time.Minute)
	setDefault(&c.Retry.Slow, 5*time.Minute)
	if c.BlobPace == (pace.Limit{}) {
		c.BlobPace = pace.Default
	}
	return c, nil
}

func setDefault(d *time.Duration, def time.Duration) {
	if *d == 0 {
		*d = def
	}
}

// secretsRoot is the secrets link of a profile.
func (c Config) secretsRoot(p fleet.ProfileName) string {
	if p == fleet.System {
		return c.SecretsDir
	}
	return c.SecretsDir + "-" + p.FileName()
}

// places are where configurations look for secrets; false where the agent does not own
// them.
func (c Config) places() (secrets.Places, bool) {
	p := c.SecretsPlaces
	p.Root = c.secretsRoot(fleet.System)
	return p, p.Run != ""
}

// below is a path below the state directory.
func (c Config) below(name string) string { return filepath.Join(c.StateDir, name) }

// socketDir has the sockets of plugins: the path of one has at most 107 bytes.
func (c Config) socketDir() string { return filepath.Join(c.RunDir, "plugins") }

func (c Config) watchBackoff() sync.Backoff {
	return sync.Backoff{First: c.Retry.First, Max: c.Retry.Max, Slow: c.Retry.Slow}
}
