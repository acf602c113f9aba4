package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"time"
)

// ramDisk is memory of macOS as a file system: a disk of its own, formatted with HFS+, as
// sops-nix has it there. It is not swapped but with what the Mac encrypts its swap with.
// Nothing of this was tried on a Mac; what its programs print is as recorded.
type ramDisk struct {
	run func(ctx context.Context, program string, args ...string) (string, error)
	// mounted is the device that is mounted at a directory itself; "" for none.
	mounted func(dir string) string
}

const (
	// ramSectors are of 512 bytes: 256 MiB, of which memory is taken as it is used.
	ramSectors = memoryBytes / 512
	// ramPatience bounds each program.
	ramPatience = 30 * time.Second
	// filling is where a disk is until it has everything, after the directory's name.
	filling = ".new"
)

// memoryBytes bounds what secrets take of the host's memory: some full sets.
const memoryBytes = 4 * MaxTotalBytes

var ramDevice = regexp.MustCompile(`^/dev/disk[0-9]{1,4}$`)

// program runs one of macOS's own.
func (d ramDisk) program(path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ramPatience)
	defer cancel()
	out, err := d.run(ctx, path, args...)
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrNoMemory, path, err)
	}
	return strings.TrimSpace(out), nil
}

// inMemory says whether dir is where a disk was mounted.
func (d ramDisk) inMemory(dir string) bool { return d.mounted(dir) != "" }

// mount is mountMemory. The old content goes just before the new is put in place: what is
// beneath a mounted disk nobody could remove.
func (d ramDisk) mount(dir string, fill func(at string) error) (err error) {
	at := dir + filling
	if err := d.unmount(at); err != nil { // What was killed in the middle.
		return err
	}
	if err := errors.Join(makeDir(dir), makeDir(at)); err != nil {
		return err
	}
	disk, err := d.program("/usr/bin/hdiutil", "attach", "-nomount", fmt.Sprintf("ram://%d", ramSectors))
	if err == nil && !ramDevice.MatchString(disk) {
		err = fmt.Errorf("%w: hdiutil named no disk", ErrNoMemory)
	}
	if err != nil {
		return errors.Join(err, os.Remove(at))
	}
	defer func() {
		if err != nil {
			_, ejectErr := d.program("/usr/bin/hdiutil", "detach", "-force", disk)
			err = errors.Join(err, ejectErr, removeEmpty(at))
		}
	}()
	if _, err := d.program("/sbin/newfs_hfs", "-s", disk); err != nil {
		return err
	}
	if err := d.mountAt(disk, at); err != nil {
		return err
	}
	if err := fill(at); err != nil {
		return err
	}
	if _, err := d.program("/sbin/umount", at); err != nil {
		return err
	}
	if err := clearDir(dir); err != nil {
		return err
	}
	if err := d.mountAt(disk, dir); err != nil {
		return err
	}
	return removeEmpty(at)
}

// mountAt has owners and modes count, shows the disk to nobody, and starts no program of it.
func (d ramDisk) mountAt(disk, at string) error {
	_, err := d.program("/sbin/mount", "-t", "hfs", "-o", fmt.Sprintf("nobrowse,nodev,nosuid,noexec,-m=%#o", dirMode), disk, at)
	return err
}

// unmount takes the disk at dir away, with what is on it; nothing where there is none.
func (d ramDisk) unmount(dir string) error {
	disk := d.mounted(dir)
	if disk == "" {
		return nil
	}
	if _, err := d.program("/sbin/umount", "-f", dir); err != nil {
		return err
	}
	_, err := d.program("/usr/bin/hdiutil", "detach", "-force", disk)
	return err
}

func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	top, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, top.RemoveAll(e.Name()))
	}
	return errors.Join(err, top.Close())
}

func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
