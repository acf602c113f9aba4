package secrets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mac plays macOS's programs: a disk is a directory, which is at its mount point while it
// is mounted.
type mac struct {
	t      *testing.T
	dir    string
	told   []string
	fail   string // the call that fails, by its beginning
	disks  map[string]string
	mounts map[string]string
	hidden map[string]string
}

func newMac(t *testing.T) *mac {
	return &mac{t: t, dir: t.TempDir(), disks: map[string]string{}, mounts: map[string]string{}, hidden: map[string]string{}}
}

func (m *mac) disk() ramDisk {
	return ramDisk{run: m.run, mounted: func(dir string) string { return m.mounts[dir] }}
}

func (m *mac) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *mac) run(_ context.Context, program string, args ...string) (string, error) {
	call := filepath.Base(program) + " " + strings.Join(args, " ")
	m.told = append(m.told, call)
	if m.fail != "" && strings.HasPrefix(call, m.fail) {
		return "", errors.New("exit status 1")
	}
	switch last := args[len(args)-1]; {
	case strings.HasPrefix(call, "hdiutil attach"):
		m.disks["/dev/disk7"] = filepath.Join(m.dir, "disk7")
		m.must(os.Mkdir(m.disks["/dev/disk7"], 0o700))
		return "/dev/disk7          \t         \t\n", nil
	case strings.HasPrefix(call, "hdiutil detach"):
		for at, disk := range m.mounts {
			if disk == last {
				m.unmount(at)
			}
		}
		m.must(os.RemoveAll(m.disks[last]))
		delete(m.disks, last)
	case strings.HasPrefix(call, "mount "):
		disk := args[len(args)-2]
		m.hidden[last] = filepath.Join(m.dir, "hidden-"+filepath.Base(last))
		m.must(errors.Join(os.Rename(last, m.hidden[last]), os.Rename(m.disks[disk], last)))
		m.mounts[last] = disk
	case strings.HasPrefix(call, "umount"):
		m.unmount(last)
	}
	return "", nil
}

func (m *mac) unmount(at string) {
	m.must(errors.Join(os.Rename(at, m.disks[m.mounts[at]]), os.Rename(m.hidden[at], at)))
	delete(m.mounts, at)
}

func put(at string) error { return os.WriteFile(filepath.Join(at, "token"), []byte("s3cret"), 0o600) }

// TestRAMDisk: what is filled comes to be at its place, in memory, and nothing stays on the
// disk; a disk that is taken away has taken all with it.
func TestRAMDisk(t *testing.T) {
	m := newMac(t)
	dir := filepath.Join(t.TempDir(), "secrets.d")
	m.must(os.Mkdir(dir, 0o700))
	m.must(put(dir)) // As an agent before left it.
	m.must(m.disk().mount(dir, put))
	if b, err := os.ReadFile(filepath.Join(dir, "token")); err != nil || string(b) != "s3cret" || !m.disk().inMemory(dir) {
		t.Errorf("%q, %v", b, err)
	}
	if left, err := os.ReadDir(m.hidden[dir]); err != nil || len(left) > 0 {
		t.Errorf("the disk has %v, %v", left, err)
	}
	if _, err := os.Stat(dir + filling); err == nil {
		t.Error("where it was filled is there")
	}
	want := []string{
		"hdiutil attach -nomount ram://524288", "newfs_hfs -s /dev/disk7",
		"mount -t hfs -o nobrowse,nodev,nosuid,noexec,-m=0711 /dev/disk7 " + dir + filling, "umount " + dir + filling,
		"mount -t hfs -o nobrowse,nodev,nosuid,noexec,-m=0711 /dev/disk7 " + dir,
	}
	if !slices.Equal(m.told, want) {
		t.Errorf("called\n%s", strings.Join(m.told, "\n"))
	}
	m.must(m.disk().unmount(dir))
	m.must(m.disk().unmount(dir))
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || len(m.disks) > 0 {
		t.Errorf("left are %v, %v, %v", left, m.disks, err)
	}
}

// TestRAMDiskFails: whatever fails, no disk is left, and what was there is there until the
// new is whole.
func TestRAMDiskFails(t *testing.T) {
	for _, fail := range []string{"hdiutil attach", "newfs_hfs", "mount", "umount", "fill"} {
		t.Run(fail, func(t *testing.T) {
			m := newMac(t)
			m.fail = fail
			dir := filepath.Join(t.TempDir(), "secrets.d")
			m.must(os.Mkdir(dir, 0o700))
			m.must(put(dir))
			err := m.disk().mount(dir, func(at string) error {
				if fail == "fill" {
					return errors.New("a secret that can't be opened")
				}
				return put(at)
			})
			if err == nil || errors.Is(err, ErrNoMemory) == (fail == "fill") {
				t.Errorf("%v", err)
			}
			if b, err := os.ReadFile(filepath.Join(dir, "token")); err != nil || string(b) != "s3cret" {
				t.Errorf("what was there is %q, %v", b, err)
			}
			if len(m.disks) > 0 || m.disk().inMemory(dir) {
				t.Errorf("left are %v", m.disks)
			}
			// The next one is in no way hindered.
			m.fail = ""
			m.must(m.disk().mount(dir, put))
		})
	}
	m := newMac(t)
	d := m.disk()
	d.run = func(context.Context, string, ...string) (string, error) { return "no disk", nil }
	if err := d.mount(filepath.Join(t.TempDir(), "secrets.d"), put); !errors.Is(err, ErrNoMemory) {
		t.Errorf("a name that is none: %v", err)
	}
}

// TestRAMDiskKilled: what a run left that was killed while it filled goes before the next.
func TestRAMDiskKilled(t *testing.T) {
	m := newMac(t)
	dir := filepath.Join(t.TempDir(), "secrets.d")
	killed := errors.New("killed")
	func() {
		defer func() { _ = recover() }()
		_ = m.disk().mount(dir, func(string) error { panic(killed) })
	}()
	if m.mounts[dir+filling] == "" && len(m.disks) > 0 {
		t.Fatal("the killed run left no mount")
	}
	m.must(m.disk().mount(dir, put))
	if len(m.disks) != 1 || !m.disk().inMemory(dir) {
		t.Errorf("disks %v", m.disks)
	}
}
