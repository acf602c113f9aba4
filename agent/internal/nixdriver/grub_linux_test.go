package nixdriver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGRUBWrites looks at this machine's own file systems.
func TestGRUBWrites(t *testing.T) {
	if why, err := grubWrites("/proc"); err != nil || !strings.Contains(why, "neither ext4 nor FAT") {
		t.Errorf("/proc: %q, %v", why, err)
	}
	if _, err := grubWrites(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	for device, want := range map[string]string{
		"../../devices/virtual/block/dm-0": "dm-0", "../../devices/virtual/block/md127/md127p1": "md127",
		"../../devices/virtual/block/zd16": "zd16", "../../devices/pci0/virtio1/block/vda/vda2": "",
		"../../devices/pci0/ata1/md/block/sda": "",
	} {
		if got := assembled(device); got != want {
			t.Errorf("%s: %q, want %q", device, got, want)
		}
	}
}
