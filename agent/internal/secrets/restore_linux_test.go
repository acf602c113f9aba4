package secrets_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// memoryRoot is a link in a directory of its own, from which memory is unmounted in the end.
func memoryRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "secrets")
	t.Cleanup(func() { must(t, secrets.Unmount(root)) })
	return root
}

// set is the vault's manifest under a name.
func (v *vault) set(name string) secrets.Set {
	return secrets.Set{Manifest: v.manifest, Digest: digest(name)}
}

// restoration says what it logs in log.
func (v *vault) restoration(log *bytes.Buffer) secrets.Restoration {
	return secrets.Restoration{
		Memory: true, Open: v.open, IDs: []age.Identity{v.key}, Log: slog.New(slog.NewTextHandler(log, nil)),
	}
}

// beneath lists what the disk has where memory is mounted.
func beneath(t *testing.T, root string) []string {
	t.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Dir(root), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	f := os.NewFile(uintptr(fd), "above")
	defer func() { must(t, f.Close()) }()
	entries, err := os.ReadDir(filepath.Join("/proc/self/fd", strconv.Itoa(fd), filepath.Base(root)+".d"))
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// kindOf is the magic number of the file system that a directory is in.
func kindOf(t *testing.T, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	must(t, unix.Statfs(dir, &s))
	return int64(s.Type) //nolint:unconvert // Of another size elsewhere.
}

func content(t *testing.T, root, manifest, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(secrets.Dir(root, digest(manifest)), path))
	must(t, err)
	return string(b)
}

// asRoot says whether file systems can be mounted; without, it tries what becomes of that.
func asRoot(t *testing.T, v *vault) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	root, log := filepath.Join(t.TempDir(), "secrets"), bytes.Buffer{}
	must(t, v.restoration(&log).Restore(t.Context(), root, []secrets.Set{v.set("one")}))
	if !strings.Contains(log.String(), "kept on the disk") {
		t.Errorf("the log says %q", log.String())
	}
	return false
}

// TestRestore: sets come to be in memory, whole, and are made anew after a boot; nothing is
// left of them on the disk.
func TestRestore(t *testing.T) {
	v := newVault(t)
	v.add(t, "web/token", "hunter2")
	if !asRoot(t, v) {
		return
	}
	root, log := memoryRoot(t), bytes.Buffer{}
	// As an agent before left it.
	_, err := v.prepare(t, root, "one")
	must(t, err)
	r := v.restoration(&log)
	for _, boot := range []bool{false, false, true} {
		if boot {
			must(t, secrets.Unmount(root))
		}
		must(t, r.Restore(t.Context(), root, []secrets.Set{v.set("one"), v.set("two")}))
		if kind := kindOf(t, root+".d"); kind != unix.TMPFS_MAGIC && kind != unix.RAMFS_MAGIC {
			t.Errorf("secrets are in a file system of kind %x", kind)
		}
		for _, name := range []string{"one", "two"} {
			if got := content(t, root, name, "web/token"); got != "hunter2" {
				t.Errorf("%s has %q", name, got)
			}
		}
		if left := beneath(t, root); len(left) > 0 {
			t.Errorf("the disk has %q", left)
		}
	}
	if log.Len() > 0 {
		t.Errorf("the log says %s", &log)
	}
	// What is prepared from now on is there too.
	path, err := v.prepare(t, root, "three")
	must(t, err)
	if kindOf(t, path) == kindOf(t, filepath.Dir(root)) {
		t.Error("a set that is prepared is on the disk")
	}
}

// TestRestoreEarly: before there are users, only what is needed for them is made, and the
// rest later.
func TestRestoreEarly(t *testing.T) {
	v := newVault(t)
	v.add(t, "admin-hash", "$y$").NeededFor = fleet.NeededForUsers
	v.add(t, "app/token", "hunter2").Owner = "nobody-has-made-this-user"
	if !asRoot(t, newVault(t)) {
		return
	}
	root, log := memoryRoot(t), bytes.Buffer{}
	r := v.restoration(&log)
	r.Early = true
	for range 2 {
		must(t, r.Restore(t.Context(), root, []secrets.Set{v.set("one")}))
		if got := content(t, root, "one", "for-users/admin-hash"); got != "$y$" {
			t.Errorf("got %q", got)
		}
	}
	r.Early = false
	if err := r.Restore(t.Context(), root, []secrets.Set{v.set("one")}); !errors.Is(err, secrets.ErrOwner) {
		t.Errorf("with no such user: %v", err)
	}
	if got := content(t, root, "one", "for-users/admin-hash"); got != "$y$" {
		t.Errorf("after that: %q", got)
	}
	v.manifest.Entries[1].Owner = ""
	must(t, r.Restore(t.Context(), root, []secrets.Set{v.set("one")}))
	if got := content(t, root, "one", "app/token"); got != "hunter2" {
		t.Errorf("got %q", got)
	}
}

// TestRestoreBad: a set that can't be made keeps no other from being made, and none that is
// on the disk from staying there.
func TestRestoreBad(t *testing.T) {
	v, foreign := newVault(t), newVault(t)
	v.add(t, "token", "hunter2")
	if !asRoot(t, v) {
		return
	}
	foreign.add(t, "token", "not ours")
	other := secrets.Set{Manifest: foreign.manifest, Digest: digest("other")}
	maps.Copy(v.blobs, foreign.blobs)
	t.Run("after a boot", func(t *testing.T) {
		root, log := memoryRoot(t), bytes.Buffer{}
		err := v.restoration(&log).Restore(t.Context(), root, []secrets.Set{other, v.set("one")})
		if !errors.Is(err, secrets.ErrDecrypt) {
			t.Errorf("error: %v", err)
		}
		if got := content(t, root, "one", "token"); got != "hunter2" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("on the disk", func(t *testing.T) {
		root, log := memoryRoot(t), bytes.Buffer{}
		_, err := foreign.prepare(t, root, "other")
		must(t, err)
		err = v.restoration(&log).Restore(t.Context(), root, []secrets.Set{other, v.set("one")})
		if !errors.Is(err, secrets.ErrDecrypt) {
			t.Errorf("error: %v", err)
		}
		if got := content(t, root, "other", "token"); got != "not ours" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("full", func(t *testing.T) {
		root := memoryRoot(t)
		must(t, os.Mkdir(root+".d", 0o700))
		must(t, unix.Mount("tmpfs", root+".d", "tmpfs", 0, "size=64k"))
		small, err := v.prepare(t, root, "one")
		must(t, err)
		v.add(t, "big", strings.Repeat("x", 100<<10))
		if _, err := v.prepare(t, root, "two"); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("error: %v", err)
		}
		if all := tree(t, root+".d"); len(all) != 3 || content(t, root, "one", "token") != "hunter2" {
			t.Errorf("%s is not all that is left: %v", small, all)
		}
	})
}

// TestRestoreKilled kills a restoration at each point, and the one after it too: the third
// has all in memory, and until then nothing is half there.
func TestRestoreKilled(t *testing.T) {
	v := newVault(t)
	v.add(t, "web/token", "hunter2")
	if !asRoot(t, v) {
		return
	}
	program, data := filepath.Join(t.TempDir(), "restorer"), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "crashpoints", "-o", program, "./testdata/restorer")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	manifest, err := json.Marshal(v.manifest)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(data, "manifest.json"), manifest, 0o600))
	must(t, os.WriteFile(filepath.Join(data, "key"), []byte(v.key.String()), 0o600))
	for d, b := range v.blobs {
		must(t, os.WriteFile(filepath.Join(data, d.Hex()), b, 0o600))
	}
	restore := func(root string, env ...string) error {
		cmd := exec.CommandContext(t.Context(), program, root, data)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		exit := (*exec.ExitError)(nil)
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			return nil
		}
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return err
	}
	log := filepath.Join(t.TempDir(), "log")
	must(t, restore(memoryRoot(t), "FLEET_CRASHPOINT_LOG="+log))
	list, err := os.ReadFile(log)
	must(t, err)
	points := regexp.MustCompile(`(?m)^restorer (\S+) `).FindAllStringSubmatch(string(list), -1)
	for _, want := range []string{"secrets.filled", "secrets.in-memory", "secrets.mounted"} {
		if !strings.Contains(string(list), want) {
			t.Fatalf("%s is not met: %s", want, list)
		}
	}
	path := func(root string) string {
		return filepath.Join(secrets.Dir(root, fleet.DigestOf(manifest)), "web/token")
	}
	for n := range points {
		root := memoryRoot(t)
		// What was on the disk is readable at any time.
		_, err := secrets.Prepare(t.Context(), root, v.manifest, fleet.DigestOf(manifest), v.open, []age.Identity{v.key})
		must(t, err)
		for range 2 {
			must(t, restore(root, "FLEET_CRASHPOINT=*#"+strconv.Itoa(n+1)+"=kill"))
			if b, err := os.ReadFile(path(root)); err != nil || string(b) != "hunter2" {
				t.Fatalf("killed at %s: %q, %v", points[n][1], b, err)
			}
		}
		must(t, restore(root))
		if left := beneath(t, root); len(left) > 0 {
			t.Errorf("killed at %s: the disk has %q", points[n][1], left)
		}
		if b, err := os.ReadFile(path(root)); err != nil || string(b) != "hunter2" {
			t.Errorf("killed at %s: %q, %v", points[n][1], b, err)
		}
		if _, err := os.Lstat(filepath.Join(root+".d", ".tmp-"+fleet.DigestOf(manifest).Short())); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("killed at %s: a half-made set is left", points[n][1])
		}
	}
}
