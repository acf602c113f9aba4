package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/disktest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestDiskFull has a host take generations while its disk has ever a little
// more room, by bytes and by inodes, and everywhere by a limit on the size of
// files.
func TestDiskFull(t *testing.T) {
	disktest.Each(t, func(t *testing.T, kind disktest.Kind) {
		t.Run("one after the other", func(t *testing.T) { diskFull(t, kind, 0, 1) })
		if kind == disktest.Bytes {
			// No reserve, and bundles of many files that take more room each than what
			// was signed says: the disk is full in the midst of unpacking.
			t.Run("unpacked", func(t *testing.T) { diskFull(t, kind, 600, 24) })
		}
	})
}

// diskFull has generations fail for want of room until there is enough. Each
// bundle has so many small files besides; where there are some, no reserve hides
// that they don't fit.
func diskFull(t *testing.T, kind disktest.Kind, small, unit int) {
	h := newHostBeside(t)
	h.config.DiskReserve = 128 << 10
	if small > 0 {
		h.config.DiskReserve = 1
	}
	dir := h.config.StateDir
	disk := disktest.New(t, kind, dir)
	t.Cleanup(h.crash) // before the disk goes
	h.config.SecretsDir = filepath.Join(dir, "secrets")
	h.start()
	h.confirmed(1, "v1")
	recipient, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
	if err != nil {
		t.Fatal(err)
	}
	full, met, torn, done, seq, room := 0, 0, 0, 0, uint64(1), 0
	for step := 0; done < 2; step++ {
		if step > 100 {
			t.Fatal("there is never enough room")
		}
		seq++
		version := fmt.Sprintf("v%d", seq)
		g, blob := h.generation(seq, version, "")
		if small > 0 {
			files := serviceFiles(version, "")
			for n := range small {
				files[fmt.Sprintf("small/%d", n)] = "x"
			}
			g.Source, blob = h.fleet.Bundle(files)
		}
		secrets, named, sealed := h.fleet.SealSecrets(recipient, map[string]string{"token": version})
		g.Secrets = named
		env, ref := h.fleet.Seal(g)
		disk.Leave(unit * room)
		room += 1 + room/3
		h.coord.Publish(env, secrets, append(sealed, blob)...)
		p := waitProfile(t, h, "the disk full, or done", func(p control.Profile) bool {
			return p.Reason.Code == fleet.ReasonDiskFull || p.State == fleet.StateConfirmed && p.Current.Digest == ref.Digest
		})
		if p.Reason.Code == fleet.ReasonDiskFull {
			full++
			if strings.Contains(p.Reason.Message, kind.Word()) {
				met++
				if strings.Contains(p.Reason.Message, filepath.Join(dir, "bundle")) {
					torn++
				}
			}
			h.expectServing(fmt.Sprintf("v%d", seq-1)) // Nothing is activated by half.
			if !strings.Contains(p.Reason.Message, dir) || !strings.Contains(p.Reason.Message, "below "+dir) {
				t.Errorf("step %d: %+v", step, p.Reason)
			}
			disk.Leave(-1)
		} else {
			done++
		}
		h.coord.WaitState(fleet.StateConfirmed, ref)
		h.expectServing(version)
	}
	h.blameless()
	if full == 0 || met == 0 || small > 0 && torn == 0 {
		t.Error("the disk was never full: the test shows nothing")
	}
	// Nothing that was acknowledged is lost, and a restart finds the same.
	h.crash()
	h.start()
	h.confirmed(seq+1, "last")
	t.Logf("%s: %d steps %s, %d with the disk's own word, %d while a bundle was unpacked", t.Name(), full, disktest.Said, met, torn)
}
