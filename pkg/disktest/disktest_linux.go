package disktest

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
)

// Kind is what a disk lacks.
type Kind string

// Kinds. Bytes and Inodes are those of a small tmpfs, in a mount namespace that
// the kernel has to let users make. Limit is on the size of every file that the
// process writes (RLIMIT_FSIZE): it needs nothing, and fails the same writes of
// bytes, whatever disk they go to.
const (
	Bytes  Kind = "bytes"
	Inodes Kind = "inodes"
	Limit  Kind = "limit"
)

// Word is the text of what such a disk answers to a write.
func (k Kind) Word() string {
	if k == Limit {
		return unix.EFBIG.Error()
	}
	return unix.ENOSPC.Error()
}

// env tells a test binary which of the two processes it is.
const env = "FLEETTEST_DISK"

// Each runs f for each kind, as subtests of t in a process of their own: the
// test calls it first, and must not be parallel in that process. What the
// subtests log is logged.
// Where the kernel gives users no namespaces, Limit alone is run.
func Each(t *testing.T, f func(*testing.T, Kind)) {
	t.Helper()
	kinds := map[string][]Kind{"limit": {Limit}, "mount": {Bytes, Inodes}}
	if here := kinds[os.Getenv(env)]; here != nil {
		for _, k := range here {
			t.Run(string(k), func(t *testing.T) { f(t, k) })
		}
		return
	}
	t.Parallel()
	t.Run("limit", func(t *testing.T) {
		if err := again(t, kinds["limit"], "limit", nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("mount", func(t *testing.T) {
		err := again(t, kinds["mount"], "mount", &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		})
		if err != nil {
			t.Logf("this kernel gives users no namespaces (%v): the limit on files alone shows it here", err)
		}
	})
}

// again runs the test in another process. The error is that of the start.
func again(t *testing.T, kinds []Kind, how string, attr *syscall.SysProcAttr) error {
	t.Helper()
	name := strings.TrimSuffix(t.Name(), "/"+how)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$", "-test.v", "-test.timeout=9m") //nolint:gosec // This very program.
	cmd.Env = append(os.Environ(), env+"="+how)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		return err
	}
	for _, k := range kinds {
		if !strings.Contains(string(out), "--- PASS: "+name+"/"+string(k)+" ") {
			err = errors.Join(err, fmt.Errorf("%s did not pass", k))
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, Said) {
			t.Log(strings.TrimSpace(line))
		}
	}
	return nil
}

// Said is in the lines of the subtests' logs that Each passes on.
const Said = "without room"

// Disk is a small disk, or the limit that stands for one.
type Disk struct {
	t    *testing.T
	kind Kind
	dir  string
	was  unix.Rlimit
	// made is how many files fill it.
	made int
}

// What a disk has when it is empty.
const (
	diskBytes  = "size=64m"
	diskInodes = "size=128m,nr_inodes=600"
)

// New puts a small disk over dir, which is made. With Limit that is all.
func New(t *testing.T, kind Kind, dir string) *Disk {
	t.Helper()
	d := &Disk{t: t, kind: kind, dir: dir}
	d.check(os.MkdirAll(dir, 0o700))
	if kind == Limit {
		signal.Ignore(syscall.SIGXFSZ) // so that a write beyond the limit is an error
		d.check(unix.Getrlimit(unix.RLIMIT_FSIZE, &d.was))
		t.Cleanup(func() { d.Leave(-1) })
		return d
	}
	options := diskBytes
	if kind == Inodes {
		options = diskInodes
	}
	d.check(unix.Mount("tmpfs", dir, "tmpfs", 0, options+",mode=0700"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Disk) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// Filler is the name of the directory on a disk with what fills it.
const Filler = ".filler"

// Leave leaves so much room: pages, inodes, or for Limit half kilobytes of each
// file. A negative number leaves all there is.
func (d *Disk) Leave(n int) {
	d.t.Helper()
	if d.kind == Limit {
		limit := d.was
		if n >= 0 {
			limit.Cur = min(uint64(n)*512, limit.Max) //nolint:gosec // Not negative.
		}
		d.check(unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
		return
	}
	dir := filepath.Join(d.dir, Filler)
	if n < 0 {
		d.check(os.RemoveAll(dir))
		d.made = 0
		return
	}
	d.check(os.MkdirAll(dir, 0o700))
	// Others write meanwhile; and there is never more room in between than asked
	// for.
	for range 100 {
		if d.kind == Bytes && d.pages(filepath.Join(dir, "0"), n) || d.kind == Inodes && d.files(dir, n) {
			return
		}
	}
	d.t.Fatalf("%s can't be filled: somebody else writes all the time", d.dir)
}

func (d *Disk) free() unix.Statfs_t {
	d.t.Helper()
	var st unix.Statfs_t
	d.check(unix.Statfs(d.dir, &st))
	return st
}

// pages has one file take all pages but n, and says whether that is so.
func (d *Disk) pages(path string, n int) bool {
	d.t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600) //nolint:gosec // The test names it.
	if errors.Is(err, unix.ENOSPC) {
		return false
	}
	d.check(err)
	defer func() { d.check(f.Close()) }()
	fi, err := f.Stat()
	d.check(err)
	st := d.free()
	more := (int64(st.Bavail) - int64(n)) * st.Bsize //nolint:gosec // Small.
	if more < 0 {
		d.check(f.Truncate(max(fi.Size()+more, 0)))
		return true
	}
	if more == 0 {
		return true
	}
	err = unix.Fallocate(int(f.Fd()), 0, fi.Size(), more) //nolint:gosec // A descriptor.
	if errors.Is(err, unix.ENOSPC) {
		return false
	}
	d.check(err)
	return d.free().Bavail <= uint64(n) //nolint:gosec // Not negative.
}

// files has empty files take all inodes but n, and says whether that is so.
func (d *Disk) files(dir string, n int) bool {
	d.t.Helper()
	for more := int(d.free().Ffree) - n; more != 0; more = int(d.free().Ffree) - n { //nolint:gosec // Small.
		if more < 0 && d.made == 0 {
			return true
		}
		if more < 0 {
			d.made--
			d.check(os.Remove(filepath.Join(dir, fmt.Sprint(d.made))))
			continue
		}
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint(d.made)), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			return false
		}
		d.check(err)
		d.made++
	}
	return true
}
