package fleetctl

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// fullEnv tells the test binary what it is to fill, in a process of its own.
const fullEnv = "FLEETTEST_FULL"

// TestDiskFull lets the disk of the repository be full at every write of a
// publish, by bytes and by inodes: on small tmpfs in a namespace of its own
// where the kernel lets users have one, and everywhere by a limit on the size
// of files.
func TestDiskFull(t *testing.T) {
	switch os.Getenv(fullEnv) {
	case "mount":
		t.Run("bytes", diskFullBytes)
		t.Run("inodes", diskFullInodes)
		return
	case "limit":
		t.Run("all", diskFullLimit)
		t.Run("mark", diskFullMark)
		return
	}
	again := func(how string, attr *syscall.SysProcAttr) error {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), fullEnv+"="+how)
		cmd.SysProcAttr = attr
		out, err := cmd.CombinedOutput()
		if n := strings.Count(string(out), "steps without room"); err == nil && n != 2 || errors.As(err, new(*exec.ExitError)) {
			t.Errorf("%s: %v\n%s", how, err, out)
			return nil
		}
		return err
	}
	if err := again("limit", nil); err != nil {
		t.Error(err)
	}
	if err := again("mount", &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}); err != nil {
		t.Logf("this kernel gives users no namespaces (%v): only the limit on files shows it here", err)
	}
}

// fullWorld is a fleet with a secret, whose repository is in dir.
func fullWorld(t *testing.T, dir string) *world {
	t.Helper()
	w := newWorldIn(t, dir)
	w.write(fleetText+"  machine:\n    galena:\n      secrets: {token: {file: ./sealed/token.age}}\n", repo.FleetFile)
	w.sealSecret("0")
	w.enrol("galena")
	w.published()
	return w
}

// steps publishes with more and more room until it works three times, each
// time a new secret of a host that enrolled anew, so that all is written. What
// fails says so, and what is there then is whole.
func steps(t *testing.T, w *world, room func(step int)) {
	t.Helper()
	full := 0
	used := numbers(t, w)
	for step, done := 0, 0; done < 3; step++ {
		if step > 300 {
			t.Fatal("there is never enough room")
		}
		room(-1)
		w.sealSecret(fmt.Sprint(step))
		w.clock = w.clock.Add(1e9)
		w.server.HostKeys = nil
		w.enrol("galena")
		head := w.server.Head
		room(step)
		code, _, errs := w.run("publish")
		if code == exitOK {
			done++
		} else {
			full++
			if !strings.Contains(errs, w.dir) || !strings.Contains(errs, "make room on the disk of this repository") {
				t.Errorf("step %d: exit %d, %s", step, code, errs)
			}
			if moved := w.server.Head != head; moved != strings.Contains(errs, "is committed and hosts see it") {
				t.Errorf("step %d: head moved: %v, but it says %s", step, moved, errs)
			}
		}
		if left, err := filepath.Glob(filepath.Join(w.dir, "*", ".*.tmp-*")); len(left) > 0 || err != nil {
			t.Errorf("step %d: left behind: %v, %v", step, left, err)
		}
		w.ok("releases") // It reads them all.
		now := numbers(t, w)
		for key, digest := range used {
			if now[key] != digest {
				t.Errorf("step %d: %s was %s, is %s", step, key, digest, now[key])
			}
		}
		used = now
	}
	if full == 0 {
		t.Error("the disk was never full: the test shows nothing")
	}
	room(-1)
	res := w.published()
	if _, twice := used["galena "+res.Generations[0].Number]; twice {
		t.Errorf("number %s is used twice", res.Generations[0].Number)
	}
	if _, manifest := w.desired("galena"); manifest == nil {
		t.Error("the secrets are gone")
	}
	for _, r := range w.releases() {
		if string(r.ID) == w.server.Head && r.State != repo.ReleaseCommitted {
			t.Errorf("release %s is %s", r.ID, r.State)
		}
	}
	t.Logf("%d steps without room", full)
}

// numbers are those in the repository, with their digests; each is there once.
func numbers(t *testing.T, w *world) map[string]fleet.Digest {
	t.Helper()
	out := map[string]fleet.Digest{}
	for _, r := range w.releases() {
		for _, g := range r.Generations {
			key := string(g.Machine) + " " + g.Number.String()
			if out[key] != "" {
				t.Errorf("%s is there twice", key)
			}
			out[key] = g.Digest
		}
	}
	return out
}

func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func diskFullBytes(t *testing.T) {
	disk := tmpfs(t, "size=16m")
	path := filepath.Join(disk, "filler")
	steps(t, fullWorld(t, filepath.Join(disk, "first")), func(step int) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if step < 0 {
			return
		}
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		size := (int64(st.Bavail) - int64(step)) * st.Bsize //nolint:gosec // Small.
		if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

func diskFullInodes(t *testing.T) {
	disk := tmpfs(t, "size=16m,nr_inodes=200")
	fillers := filepath.Join(disk, "fillers")
	steps(t, fullWorld(t, filepath.Join(disk, "first")), func(step int) {
		if err := errors.Join(os.RemoveAll(fillers), os.Mkdir(fillers, 0o700)); err != nil {
			t.Fatal(err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		for n := 0; step >= 0 && n < int(st.Ffree)-step; n++ { //nolint:gosec // Small.
			if err := os.WriteFile(filepath.Join(fillers, fmt.Sprint(n)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// limitFiles lets no file of this process grow beyond some bytes; a negative
// number lifts that.
func limitFiles(t *testing.T) (limit func(size int)) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ) // so that a write beyond the limit is an error
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	limit = func(size int) {
		now := was
		if size >= 0 {
			now.Cur = uint64(size)
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &now); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { limit(-1) })
	return limit
}

// diskFullLimit needs nothing of the kernel that not every one gives.
func diskFullLimit(t *testing.T) {
	limit := limitFiles(t)
	steps(t, fullWorld(t, filepath.Join(t.TempDir(), "first")), func(step int) {
		if step < 0 {
			limit(-1)
			return
		}
		limit(step * 512)
	})
}

// diskFullMark has the record of a commit fail alone: hosts see the release.
func diskFullMark(t *testing.T) {
	limit := limitFiles(t)
	w := newWorldIn(t, filepath.Join(t.TempDir(), "first"))
	w.published("galena")
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "/Commit") {
			limit(64)
		}
		return nil
	}
	head := w.server.Head
	w.fails(exitError, "is committed and hosts see it", "publish", "galena")
	if w.server.Head == head {
		t.Error("it was not committed")
	}
	w.server.Before = nil
	limit(-1)
	if res := w.published("galena"); res.Generations[0].Number != "1.3" {
		t.Errorf("number %s", res.Generations[0].Number)
	}
	for _, r := range w.releases() {
		if r.State != repo.ReleaseCommitted {
			t.Errorf("release %s is %s", r.ID, r.State)
		}
	}
	t.Log("1 steps without room")
}
