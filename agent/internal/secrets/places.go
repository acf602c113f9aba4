package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// ErrTwoOwners says that a system installs secrets where the agent is to.
var ErrTwoOwners = errors.New("two would install secrets at the same place")

// Places are where configurations look for secrets, /run/secrets among them, as links to
// those of the agent. Only one may install there: what the system closure has of its own
// (sops-nix) would replace the links at each activation and each boot.
type Places struct {
	// Run is the directory of them, "/run".
	Run string
	// Activation is where activation scripts look for theirs; "" for nowhere.
	Activation string
	// Root is the link to the agent's secrets.
	Root string
}

// links are what leads where: clan's places of its sops backend, and of its others.
func (p Places) links() []driver.Link {
	users := filepath.Join(p.Root, usersDir)
	links := []driver.Link{
		{Path: filepath.Join(p.Run, "secrets"), Target: p.Root},
		{Path: filepath.Join(p.Run, "secrets-for-users"), Target: users},
		{Path: filepath.Join(p.Run, "user-secrets"), Target: users},
	}
	if p.Activation != "" {
		links = append(links, driver.Link{Path: p.Activation, Target: filepath.Join(p.Root, activationDir)})
	}
	return links
}

// Steps lead to the agent's secrets from what is there now, and back. A directory that is
// no link is somebody's: ErrTwoOwners.
func (p Places) Steps() (there, back []driver.Step, err error) {
	if err := p.makeParent(); err != nil {
		return nil, nil, err
	}
	for _, l := range p.links() {
		now, err := os.Readlink(l.Path)
		switch {
		case err == nil && now == l.Target:
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, nil, ui.WithHint(fmt.Errorf("%w: %s is there, and no link", ErrTwoOwners, l.Path), "find out who made it, and move it away")
		case now != "" && !filepath.IsAbs(now):
			now = filepath.Join(p.Run, now)
		}
		there = append(there, driver.Step{Link: &l})
		back = append(back, driver.Step{Link: &driver.Link{Path: l.Path, Target: now}})
	}
	return there, back, nil
}

// Restore makes the links that a boot took away. What is there stays: it is told where it
// is not the agent's.
func (p Places) Restore() error {
	errs := []error{p.makeParent()}
	for _, l := range p.links() {
		err := os.Symlink(l.Target, l.Path)
		if errors.Is(err, fs.ErrExist) {
			now, rerr := os.Readlink(l.Path)
			if err = nil; rerr != nil || now != l.Target {
				err = fmt.Errorf("%w: %s is not the agent's", ErrTwoOwners, l.Path)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// makeParent makes the directory that is sops-nix's own, closed as clan has it.
func (p Places) makeParent() error {
	if p.Activation == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.Activation), 0o700); err != nil {
		return fmt.Errorf("making a place for secrets: %w", err)
	}
	return nil
}

// Leave removes the links that are the agent's.
func (p Places) Leave() error {
	var errs []error
	for _, l := range p.links() {
		if now, err := os.Readlink(l.Path); err == nil && now == l.Target {
			errs = append(errs, os.Remove(l.Path))
		}
	}
	return errors.Join(errs...)
}

// maxActivate bounds what is read of a system's activation script.
const maxActivate = 16 << 20

// installer is the program by which sops-nix installs secrets.
const installer = "sops-install-secrets"

// CheckSystem refuses a system that installs secrets itself, as sops-nix has it do by its
// activation script or by a unit or daemon of its own. Errors: ErrTwoOwners, of the file
// system.
func CheckSystem(path string) error {
	if path == "" {
		return nil
	}
	where := ""
	for _, unit := range []string{"etc/systemd/system/" + installer + ".service", "Library/LaunchDaemons/org.nixos." + installer + ".plist"} {
		unit := filepath.Join(path, unit)
		if to, err := os.Readlink(unit); err == nil && to == os.DevNull {
			continue // Masked.
		}
		if _, err := os.Lstat(unit); err == nil {
			where = strings.TrimPrefix(unit, path+"/")
		}
	}
	f, err := os.Open(filepath.Join(path, "activate")) //nolint:gosec // Of a path that was built.
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("looking who installs secrets: %w", err)
	default:
		text, err := io.ReadAll(io.LimitReader(f, maxActivate))
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("looking who installs secrets: %w", err)
		}
		if bytes.Contains(text, []byte("/bin/"+installer+" ")) {
			where = "activate"
		}
	}
	if where == "" {
		return nil
	}
	return ui.WithHint(fmt.Errorf("%w: %s runs %s, and this host's agent is to install them (--run-secrets agent)", ErrTwoOwners, strings.TrimSuffix(path, "/")+"/"+where, installer),
		"set services.fleet.agent.runSecrets to \"agent\" in its configuration too, which switches that off, or leave it to the closure on this host")
}
