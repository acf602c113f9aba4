package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Host is the system that services are installed on.
type Host struct {
	Manager Manager
	// Root is "/", and another directory in tests: where the files of the host
	// are. It is in no file.
	Root string
	// EUID is the effective user.
	EUID int
}

// Here is the host that this process runs on. It wraps ErrNoManager.
func Here() (Host, error) {
	h := Host{Root: "/", EUID: os.Geteuid()}
	switch runtime.GOOS {
	case "darwin":
		h.Manager = launchd{run: execute, exists: exists, pause: pause}
		return h, nil
	case "linux":
		// The library takes a machine for systemd's that only has its programs.
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			h.Manager = systemd{run: execute, control: libraryControl}
			return h, nil
		}
		return h, ui.WithHint(fmt.Errorf("%w: systemd does not run this machine (it looks like %s)", ErrNoManager, chosen()),
			"have what runs it keep the program's \"run\" command going, and start and stop it")
	}
	return h, fmt.Errorf("%w: %s is not supported", ErrNoManager, runtime.GOOS)
}

// path is where a file of the host is.
func (h Host) path(file string) string { return filepath.Join(h.Root, file) }

// mayChange refuses who may not install or remove services here. force takes an
// unusual NixOS.
func (h Host) mayChange(service string, force bool) error {
	if h.EUID != 0 {
		return notRoot("installing or removing " + service)
	}
	dir := h.path(filepath.Dir(h.Manager.File(service)))
	owned := func(why string) error {
		return ui.WithHint(fmt.Errorf("%w: %s", ErrOwned, why),
			"set services."+strings.Replace(service, "-", ".", 1)+".enable in the system's configuration, with the module of this project (packaging/nix); a unit that is put there by hand would be gone after the next switch")
	}
	if led, err := filepath.EvalSymlinks(dir); err == nil && inStore(strings.TrimPrefix(led, filepath.Clean(h.Root))) {
		return owned(filepath.Dir(h.Manager.File(service)) + " is in the Nix store")
	}
	if err := unix.Access(dir, unix.W_OK); errors.Is(err, unix.EROFS) {
		return owned(filepath.Dir(h.Manager.File(service)) + " is read-only")
	}
	if _, err := os.Stat(h.path("/etc/NIXOS")); err == nil && !force {
		return owned("this is NixOS (/etc/NIXOS; --force installs all the same)")
	}
	return nil
}

func notRoot(what string) error {
	return ui.WithHint(fmt.Errorf("%s: %w", what, ErrNotRoot), "use sudo")
}

// inStore says whether a path is in the Nix store, or in NixOS's link to it.
func inStore(path string) bool {
	path = "/" + strings.TrimPrefix(path, "/")
	return strings.HasPrefix(path, "/nix/store/") || strings.HasPrefix(path, "/etc/static/")
}

// read returns the definition of a service; "" where there is none.
func (h Host) read(service string) (string, error) {
	file := h.path(h.Manager.File(service))
	if to, err := os.Readlink(file); err == nil {
		// To /dev/null, say: an administrator masked it.
		return "a link to " + to + "\n", nil
	}
	b, err := os.ReadFile(file) //nolint:gosec // Of the system.
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what is installed: %w", err)
	}
	return string(b), nil
}
