//go:build linux

package booted

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// prefix of all names that are seen outside of the lab's directory.
	prefix = "fleet-lab-"
	// lockFile is held by the one run that there can be: names are fixed.
	lockFile = "/run/fleet-lab.lock"
	// teardownTimeout bounds taking a lab down.
	teardownTimeout = time.Minute
)

// Options of Open.
type Options struct {
	// Dir is where hosts' disks, mounts and logs are while the lab is open. It
	// must be on a disk: overlays and loop devices want a real file system.
	Dir string
	// Base is the root that hosts share, of Base.
	Base string
	// Log says what is being done.
	Log func(format string, args ...any)
}

// Lab is a set of booted hosts and their network. Not safe for concurrent use,
// but different hosts may be used at the same time.
type Lab struct {
	options Options
	lock    *os.File
	hosts   []*Host
	mounts  []string // in the order in which they were mounted
}

// Lock waits for the one lab that a machine can have, until ctx ends.
func Lock(ctx context.Context, log func(format string, args ...any)) (*os.File, error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the lab: %w", err)
	}
	for said := false; ; said = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking the lab: %w", errors.Join(err, f.Close()))
		}
		if !said {
			log("waiting for another lab on this machine to end (it holds %s)", lockFile)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another lab to end: %w", errors.Join(context.Cause(ctx), f.Close()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Open takes away what an earlier run left, and makes the network. The lab owns
// lock, of Lock, from here on. The caller MUST call Close, also after an error.
func Open(ctx context.Context, lock *os.File, o Options) (*Lab, error) {
	l := &Lab{options: o, lock: lock}
	// The first process of a host whose systemd-nspawn was killed falls to this
	// program, which can so see it end.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return l, fmt.Errorf("becoming the hosts' reaper: %w", err)
	}
	if err := removeLeftovers(ctx, o.Dir); err != nil {
		return l, fmt.Errorf("removing what an earlier run left: %w", err)
	}
	// Shared, so that what is unmounted here is also gone from the namespaces of
	// hosts that booted while it was mounted: a disk is not off before that.
	if err := l.mount(ctx, o.Dir, "--bind", o.Dir); err != nil {
		return l, fmt.Errorf("making the lab: %w", err)
	}
	if err := run(ctx, "mount", "--make-rshared", o.Dir); err != nil {
		return l, fmt.Errorf("making the lab: %w", err)
	}
	if err := os.MkdirAll(l.Logs(), 0o755); err != nil {
		return l, fmt.Errorf("making the lab: %w", err)
	}
	if err := l.makeSwitch(ctx); err != nil {
		return l, fmt.Errorf("making the lab's network: %w", err)
	}
	return l, nil
}

// Dir is the lab's directory.
func (l *Lab) Dir() string { return l.options.Dir }

// Base is the root that hosts share.
func (l *Lab) Base() string { return l.options.Base }

// Logs is the directory of the hosts' logs.
func (l *Lab) Logs() string { return filepath.Join(l.options.Dir, "logs") }

// Hosts are all that were added.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Close ends all hosts and takes away all that the lab made. It does not need a
// living context.
func (l *Lab) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.Kill())
	}
	removeAllGroups()
	for _, m := range slices.Backward(l.mounts) {
		errs = append(errs, unmount(m))
	}
	errs = append(errs, removeNetworks(ctx), removeTree(l.options.Dir))
	return errors.Join(append(errs, l.lock.Close())...)
}

// mount mounts and remembers it for Close.
func (l *Lab) mount(ctx context.Context, target string, args ...string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := run(ctx, append(append([]string{"mount"}, args...), target)...); err != nil {
		return err
	}
	l.mounts = append(l.mounts, target)
	return nil
}

// unmount is patient: the kernel lets go of a host that was just killed in its
// own time.
func unmount(target string) error {
	var err error
	for range 100 {
		if err = syscall.Unmount(target, 0); !errors.Is(err, syscall.EBUSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil // it is not mounted
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", target, errors.Join(err, syscall.Unmount(target, syscall.MNT_DETACH)))
	}
	return nil
}

// removeTree removes the lab's directory, where nothing is mounted any more.
func removeTree(dir string) error {
	left, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is kept: still mounted: %q", dir, left)
	}
	return os.RemoveAll(dir)
}
