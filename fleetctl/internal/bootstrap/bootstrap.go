// Package bootstrap makes a new fleet: its repository, keys, trust root,
// certificate authority, operator identity and the coordinator's start-up kit.
package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/identity"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrExists is wrapped when something is in the way: nothing is overwritten.
var ErrExists = errors.New("there is something already")

// CoordinatorKey is the coordinator's age key below the repository. It is the
// only unencrypted secret there, and ignored by git.
const CoordinatorKey = "trust/coordinator.agekey"

// Config says what to make.
type Config struct {
	// Dir is the repository's directory; it is made where it is missing, and
	// may hold anything but files of a fleet's repository.
	Dir string
	// Fleet file.
	Fleet       fleet.FleetID
	Coordinator fleet.MachineName
	Address     string
	// Inventory is the inventory's path as the fleet file should name it;
	// empty for none.
	Inventory string
	Operator  fleet.OperatorName
	// Recipients can open what is encrypted at rest.
	Recipients []string
	// RootKeys and RootThreshold of the trust root.
	RootKeys, RootThreshold int
	// OperatorDir is where the operator identity goes.
	OperatorDir string
	Now         time.Time
}

// stageDir is where everything is made before it is moved into place.
const stageDir = ".fleet-init"

// maxMarker bounds the file that names a repository under way, in bytes.
const maxMarker = 64 << 10

// names are what a repository begins with, in the order in which they are
// moved into place: the fleet file, which makes it a repository, comes last.
func names() []string { return []string{"trust", repo.FleetFile} }

// Create makes the fleet. It refuses to replace anything. Interrupted, it
// leaves no repository; run again, it begins anew.
func Create(cfg Config) (err error) {
	if err := cfg.CheckRootKeys(); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil { //nolint:gosec // What people commit is for everyone to read.
		return fmt.Errorf("making the repository: %w", err)
	}
	stage := filepath.Join(cfg.Dir, stageDir)
	marker := filepath.Join(cfg.OperatorDir, "init-pending")
	if done, err := resume(stage, cfg.Dir); done || err != nil {
		return errors.Join(err, removeMarker(marker))
	}
	for _, name := range names() {
		if _, err := os.Lstat(filepath.Join(cfg.Dir, name)); !errors.Is(err, os.ErrNotExist) {
			return ui.WithHint(fmt.Errorf("%w: %s", ErrExists, filepath.Join(cfg.Dir, name)), "choose another directory; a fleet is never overwritten")
		}
	}
	if err := checkOperator(cfg.OperatorDir, marker); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(stage))
		}
	}()
	made, err := build(cfg, repo.At(stage))
	if err != nil {
		return fmt.Errorf("making the repository: %w", err)
	}
	// The operator identity is elsewhere: until the repository is in place the
	// marker says that it may be replaced.
	if err := os.MkdirAll(cfg.OperatorDir, 0o700); err != nil {
		return fmt.Errorf("keeping the operator identity: %w", err)
	}
	target, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(marker, []byte(target+"\n"), 0o600); err != nil {
		return err
	}
	recipients, err := keyring.ParseRecipients(cfg.Recipients)
	if err != nil {
		return err
	}
	if err := made.Save(cfg.OperatorDir, recipients...); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.InitStaged)
	if err := install(stage, cfg.Dir); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.InitMarked)
	err = removeMarker(marker)
	crashpoint.Hit(crashpoint.InitDone)
	return err
}

func removeMarker(marker string) error {
	if err := os.Remove(marker); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// CheckRootKeys says whether these numbers make a trust root that survives the
// loss of one key.
func (cfg *Config) CheckRootKeys() error {
	if cfg.RootKeys < 2 || cfg.RootKeys > 8 {
		return fmt.Errorf("%d root keys: want 2 to 8, so that the loss of one is not the end", cfg.RootKeys)
	}
	if cfg.RootThreshold < 1 || cfg.RootThreshold > cfg.RootKeys {
		return fmt.Errorf("root threshold %d of %d keys: want 1 to %d", cfg.RootThreshold, cfg.RootKeys, cfg.RootKeys)
	}
	return nil
}

// resume deals with what an interrupted Create left. Where the first parts
// were moved already, it moves the rest: they are one with what is in place.
func resume(stage, dir string) (done bool, err error) {
	if _, err := os.Lstat(stage); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	_, staged := os.Lstat(filepath.Join(stage, "trust"))
	_, fleetFile := os.Lstat(filepath.Join(stage, repo.FleetFile))
	_, placed := os.Lstat(filepath.Join(dir, "trust"))
	if placed == nil && errors.Is(staged, os.ErrNotExist) && fleetFile == nil {
		return true, install(stage, dir)
	}
	if err := os.RemoveAll(stage); err != nil {
		return false, fmt.Errorf("removing what an interrupted init left: %w", err)
	}
	return false, nil
}

// checkOperator refuses to replace an operator identity that a repository
// depends on.
func checkOperator(dir, marker string) error {
	if _, err := os.Lstat(filepath.Join(dir, "operator.crt")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	exists := ui.WithHint(fmt.Errorf("%w: an operator identity in %s", ErrExists, dir),
		"a fleet of this id was made before: choose another --fleet, or move that directory away")
	target, err := atomicfile.ReadAtMost(marker, maxMarker)
	if err != nil {
		return exists
	}
	placed := filepath.Join(strings.TrimSpace(string(target)), repo.FleetFile)
	if _, err := os.Lstat(placed); errors.Is(err, os.ErrNotExist) { //nolint:gosec // Only whether it is there; init wrote the name.
		return nil
	}
	return exists
}

// install moves what was made into place.
func install(stage, dir string) error {
	for _, name := range names() {
		crashpoint.Hit(crashpoint.InitMove)
		err := os.Rename(filepath.Join(stage, name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("moving the repository into place: %w", err)
		}
		crashpoint.Hit(crashpoint.InitMoved)
		if err := atomicfile.SyncDir(dir); err != nil {
			return err
		}
	}
	return os.RemoveAll(stage)
}

// build makes the whole repository in the staging directory.
func build(cfg Config, r *repo.Repository) (*identity.Made, error) {
	text := fleetFile(cfg)
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	f, err := inventory.Parse(repo.FleetFile, text, dir, inventory.ReadFile)
	if err != nil {
		return nil, err
	}
	recipients, err := keyring.ParseRecipients(cfg.Recipients)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(r.Dir(), 0o700); err != nil {
		return nil, err
	}
	if err := r.Write(text, repo.FleetFile); err != nil {
		return nil, err
	}
	if err := r.WriteRecipients(cfg.Recipients); err != nil {
		return nil, err
	}
	if err := trustRoot(cfg, r, recipients); err != nil {
		return nil, err
	}
	ca, err := authority(cfg, r, recipients)
	if err != nil {
		return nil, err
	}
	if err := coordinatorKey(r); err != nil {
		return nil, err
	}
	made, err := identity.New(ca, pki.OperatorIdentity(cfg.Fleet, cfg.Operator), cfg.Now)
	if err != nil {
		return nil, err
	}
	if err := recordOperator(r, cfg, made); err != nil {
		return nil, err
	}
	sealed, err := Kit(r, f, CAs{Issuing: ca, Serving: ca}, cfg.Now)
	if err != nil {
		return nil, err
	}
	return made, r.Write(sealed, "trust", "coordinator-kit.age")
}
