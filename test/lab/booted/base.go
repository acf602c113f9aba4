//go:build linux

package booted

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The root that all hosts share: Debian 13, because Debian 12 has no Nix of the
// kind that users have. libdbi-perl is what configuring nix-bin lacks.
const (
	suite    = "trixie"
	included = "systemd,systemd-sysv,dbus,iproute2,ca-certificates,nix-bin,libdbi-perl,git,age,procps"
	// recipe is to be raised when Base itself makes another root.
	recipe = "1"
	// baseTimeout bounds the making of a root; it takes about a minute.
	baseTimeout = 10 * time.Minute
)

// Base returns the directory of a root file system for hosts, below cache,
// making it where there is none for this recipe. It is never written to. It wraps
// ErrNotHere where Debian's packages can't be downloaded.
func Base(ctx context.Context, cache string, log func(format string, args ...any)) (string, error) {
	sum := sha256.Sum256([]byte(suite + " " + included + " " + recipe))
	dir := filepath.Join(cache, "base-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("making the hosts' root: %w", err)
	}
	// What another recipe made, or a run that was killed, only takes space.
	old, err := filepath.Glob(filepath.Join(cache, "base-*"))
	if err != nil {
		return "", err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return "", fmt.Errorf("removing an old root: %w", err)
		}
	}
	log("making the hosts' root in %s, once; about a minute", dir)
	making := dir + ".new"
	ctx, cancel := context.WithTimeout(ctx, baseTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "debootstrap", "--variant=minbase", "--include="+included, suite, making)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", debootstrapFailed(string(out), err)
	}
	archives, err := filepath.Glob(filepath.Join(making, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return "", err
	}
	for _, a := range archives {
		err = errors.Join(err, os.Remove(a))
	}
	return dir, errors.Join(err, os.Rename(making, dir))
}

// downloads are debootstrap's words about packages that it can't get.
var downloads = []string{"E: Failed getting release file", "E: Couldn't download", "E: Couldn't retrieve"}

// debootstrapFailed tells a machine that reaches no packages from a root that
// can't be made of them.
func debootstrapFailed(out string, err error) error {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := strings.Join(lines[max(0, len(lines)-15):], "\n")
	for _, line := range lines {
		for _, words := range downloads {
			if strings.HasPrefix(line, words) {
				return fmt.Errorf("%w: Debian's packages for their root can't be downloaded: %s", ErrNotHere, line)
			}
		}
	}
	return fmt.Errorf("making the hosts' root: debootstrap: %w\n%s", err, last)
}
