package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// fullEnv tells the test binary that it runs in a mount namespace of its own.
const fullEnv = "FLEETTEST_FULL"

// TestDiskFull has a host take generations while its disk has ever a little
// more room, by bytes and by inodes: on small tmpfs in a namespace of its own.
func TestDiskFull(t *testing.T) {
	if os.Getenv(fullEnv) != "" {
		t.Run("bytes", func(t *testing.T) { diskFull(t, "size=128m", 0, bytesFree) })
		t.Run("inodes", func(t *testing.T) { diskFull(t, "size=256m,nr_inodes=400", 0, inodesFree) })
		t.Run("unpacked", diskFullUnpacked)
		return
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
	cmd.Env = append(os.Environ(), fullEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Logf("this kernel gives users no namespaces (%v): nothing is shown here", err)
		return
	}
	if err != nil || strings.Count(string(out), "steps without room") != 3 {
		t.Errorf("%v\n%s", err, out)
	}
}

// bytesFree leaves so many pages free in dir; a negative number leaves all.
func bytesFree(t *testing.T, dir string, pages int) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if pages < 0 {
		return
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	size := (int64(st.Bavail) - int64(pages)) * st.Bsize //nolint:gosec // Small.
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// inodesFree leaves so many inodes free; a negative number leaves all.
func inodesFree(t *testing.T, dir string, free int) {
	t.Helper()
	fillers := filepath.Join(dir, "fillers")
	if err := errors.Join(os.RemoveAll(fillers), os.Mkdir(fillers, 0o700)); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	for n := 0; free >= 0 && n < int(st.Ffree)-free; n++ { //nolint:gosec // Small.
		if err := os.WriteFile(filepath.Join(fillers, fmt.Sprint(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// diskFullUnpacked has no reserve, and bundles of many files that take more room
// each than what was signed says: the disk is full in the midst of unpacking.
func diskFullUnpacked(t *testing.T) {
	diskFull(t, "size=128m", 600, func(t *testing.T, dir string, step int) {
		t.Helper()
		const coarse = 24 // pages
		bytesFree(t, dir, coarse*step)
	})
}

// diskFull has generations fail for want of room until there is enough. Each
// bundle has so many small files besides; where there are some, no reserve hides
// that they don't fit.
func diskFull(t *testing.T, options string, small int, room func(t *testing.T, dir string, free int)) {
	h := newHostBeside(t)
	if small > 0 {
		h.config.DiskReserve = 1
	}
	dir := h.config.StateDir
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("tmpfs", dir, "tmpfs", 0, options)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.crash()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h.config.SecretsDir = filepath.Join(dir, "secrets")
	h.start()
	h.confirmed(1, "v1")
	recipient, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
	if err != nil {
		t.Fatal(err)
	}
	full, torn, done, seq := 0, 0, 0, uint64(1)
	for step := 0; done < 2; step++ {
		if step > 100 {
			t.Fatal("there is never enough room")
		}
		seq++
		room(t, dir, step)
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
		h.coord.Publish(env, secrets, append(sealed, blob)...)
		p := waitProfile(t, h, "the disk full, or done", func(p control.Profile) bool {
			return p.Reason.Code == fleet.ReasonDiskFull || p.State == fleet.StateConfirmed && p.Current.Digest == ref.Digest
		})
		if p.Reason.Code == fleet.ReasonDiskFull {
			full++
			if strings.Contains(p.Reason.Message, unix.ENOSPC.Error()) && strings.Contains(p.Reason.Message, filepath.Join(dir, "bundle")) {
				torn++
			}
			h.expectServing(fmt.Sprintf("v%d", seq-1)) // Nothing is activated by half.
			if !strings.Contains(p.Reason.Message, dir) || !strings.Contains(p.Reason.Message, "below "+dir) {
				t.Errorf("step %d: %+v", step, p.Reason)
			}
			room(t, dir, -1)
		} else {
			done++
		}
		h.coord.WaitState(fleet.StateConfirmed, ref)
		h.expectServing(version)
		if small == 0 && options == "size=128m" && step > 24 && done == 0 {
			break // The reserve that fetching leaves is larger than what follows.
		}
	}
	h.blameless()
	if full == 0 || small > 0 && torn == 0 {
		t.Error("the disk was never full: the test shows nothing")
	}
	// Nothing that was acknowledged is lost, and a restart finds the same.
	h.crash()
	h.start()
	h.confirmed(seq+1, "last")
	t.Logf("%d steps without room, %d while a bundle was unpacked", full, torn)
}
