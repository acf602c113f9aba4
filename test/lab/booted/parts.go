//go:build linux

package booted

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// partsTimeout bounds the making of a machine's parts; it takes a few seconds.
const partsTimeout = 5 * time.Minute

//go:embed parts.sh
var makeParts string

// inDebian runs a script in the root $1, which is not written to: what it writes is in
// the directory $2. In a mount namespace of its own, so that nothing is left mounted.
const inDebian = `
mount --make-rprivate /
mkdir -p "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cp /etc/resolv.conf "$2/root/etc/resolv.conf"
exec chroot "$2/root" sh -euc "$3"
`

// Machines says whether machines can be emulated here: their parts are those of one
// kind of processor.
func Machines() bool { return runtime.GOARCH == "amd64" }

// Parts returns the directory of what machines are booted with, below cache: firmware,
// boot loader, kernel and initrds. Where there is none it is made, with the Debian of
// base, which is of Base. It wraps ErrNotHere where Debian's packages can't be
// downloaded.
func Parts(ctx context.Context, cache, base string, log func(format string, args ...any)) (string, error) {
	sum := sha256.Sum256([]byte(filepath.Base(base) + makeParts))
	dir := filepath.Join(cache, "parts-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	old, err := filepath.Glob(filepath.Join(cache, "parts-*"))
	if err != nil {
		return "", err
	}
	for _, o := range old {
		if err := os.RemoveAll(o); err != nil {
			return "", fmt.Errorf("removing old parts of machines: %w", err)
		}
	}
	log("making the parts of machines in %s, once", dir)
	making := dir + ".new"
	ctx, cancel := context.WithTimeout(ctx, partsTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-euc", inDebian, "sh", base, making, makeParts)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LANG=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", partsFailed(string(out), err)
	}
	return dir, errors.Join(os.Rename(filepath.Join(making, "upper", "parts"), dir), os.RemoveAll(making))
}

// partsFailed tells a machine that reaches no packages from parts that can't be made of
// them.
func partsFailed(out string, err error) error {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if strings.HasPrefix(line, "E: Failed to fetch") || strings.HasPrefix(line, "W: Failed to fetch") {
			return fmt.Errorf("%w: Debian's packages for machines can't be downloaded: %s", ErrNotHere, line)
		}
	}
	return fmt.Errorf("making the parts of machines: %w\n%s", err, strings.Join(lines[max(0, len(lines)-15):], "\n"))
}
