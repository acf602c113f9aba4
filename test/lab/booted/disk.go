//go:build linux

package booted

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cameronraysmith/fleet/test/powercut"
)

// diskBytes of a host's disk; a sparse file.
const diskBytes = 2 << 30

// Disk is a file system of a host's own that can lose power: what was not
// synced is gone then. ext4 on a loop device.
type Disk struct {
	lab          *Lab
	image, point string
}

// newDisk makes a file system and mounts it at point.
func (l *Lab) newDisk(ctx context.Context, point string) (*Disk, error) {
	d := &Disk{lab: l, image: point + ".img", point: point}
	f, err := os.OpenFile(d.image, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return nil, err
	}
	if err := run(ctx, "mkfs.ext4", "-q", "-F", d.image); err != nil {
		return nil, err
	}
	return d, l.mount(ctx, point, "-o", "loop", d.image)
}

// Cut is what a power cut does to the disk: from here on all reads and writes
// fail, and what had not reached the disk never does.
func (d *Disk) Cut() error { return powercut.Cut(d.point) }

// CommitJournal writes the file system's journal, as any program's fsync of
// anything does: names and sizes are on the disk after it, contents that were
// not synced themselves are not.
func (d *Disk) CommitJournal() error {
	f, err := os.Create(filepath.Join(d.point, ".journal"))
	if err != nil {
		return fmt.Errorf("committing the disk's journal: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// Replug mounts the disk anew after Cut; its host must be down.
func (d *Disk) Replug(ctx context.Context) error {
	if err := unmount(d.point); err != nil {
		return err
	}
	return run(ctx, "mount", "-o", "loop", d.image, d.point)
}
