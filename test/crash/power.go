//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/test/powercut"
)

// power is the supply of a world whose directory is a disk of its own: an ext4
// on a loop device. When it is cut, all programs are gone at once, and so is what
// had not reached the disk; then the machine boots anew.
type power struct {
	w             *world
	image, device string
	// gate is held for reading by who starts a program or writes a file of the
	// world, and for writing while the power is off.
	gate sync.RWMutex
	// end stops the watch of a run, watched is closed when it has, err is its.
	end     chan struct{}
	watched chan struct{}
	err     error
}

const (
	// diskBytes of a world's disk, more than the reserve that the coordinator keeps free; a sparse file.
	diskBytes = 1 << 30
	// outageTimeout bounds how long programs and kernel take to let go of a disk.
	outageTimeout = 10 * time.Second
	// watchPause is between two looks whether a program waits for the power cut.
	watchPause = time.Millisecond
)

// plug makes the world's directory a disk. It needs root and loop devices.
func (w *world) plug() (err error) {
	p := &power{w: w, image: filepath.Join(w.top, "disk")}
	f, err := os.OpenFile(p.image, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return err
	}
	if err := run("mkfs.ext4", "-q", "-F", p.image); err != nil {
		return err
	}
	out, err := exec.Command("losetup", "--find", "--show", p.image).Output() //nolint:noctx // Short.
	if err != nil {
		return fmt.Errorf("losetup: %w", err)
	}
	p.device = strings.TrimSpace(string(out))
	w.power = p
	if err := run("mount", p.device, w.dir); err != nil {
		return err
	}
	return errors.Join(os.Remove(w.path("lost+found")), p.newBoot())
}

// unplug takes the disk away.
func (p *power) unplug() {
	_ = p.unmount()
	_ = run("losetup", "--detach", p.device)
}

// bootFile is what the programs of the world take for the kernel's boot_id.
func (p *power) bootFile() string { return filepath.Join(p.w.top, "boot_id") }

// newBoot is another boot.
func (p *power) newBoot() error {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	id := fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	return os.WriteFile(p.bootFile(), []byte(id), 0o600)
}

// booted wraps a program so that it sees the boot of its world.
func (p *power) booted(cmd *exec.Cmd) {
	// A copy of another world's mount would keep its disk from going off. That may
	// be off just now: nothing of it may be looked at.
	const script = `IFS='
'
umount --no-canonicalize --lazy $1 2>/dev/null
top=$0; shift
mount --bind "$top/boot_id" /proc/sys/kernel/random/boot_id && exec "$@"`
	tops, _ := filepath.Glob(filepath.Join(filepath.Dir(p.w.top), "world*"))
	var others []string
	for _, top := range tops {
		if top != p.w.top {
			others = append(others, filepath.Join(top, filepath.Base(p.w.dir)))
		}
	}
	cmd.Args = append([]string{"/bin/sh", "-c", script, p.w.top, strings.Join(others, "\n"), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
}

// cutFile is what a program writes that waits for the n-th cut.
func (p *power) cutFile(n int) string { return filepath.Join(p.w.top, fmt.Sprintf("cut%d", n)) }

// triggers turns kills into power cuts.
func (p *power) triggers(kills string) string {
	var list []string
	for i, t := range strings.Split(kills, ",") {
		list = append(list, strings.TrimSuffix(t, "=kill")+"=stop:"+p.cutFile(i+1))
	}
	return strings.Join(list, ",")
}

// watch begins to wait for programs that are at the point of a power cut.
func (p *power) watch(cuts int) {
	for n := range cuts {
		_ = os.Remove(p.cutFile(n + 1))
	}
	p.end, p.watched, p.err = make(chan struct{}), make(chan struct{}), nil
	go func() {
		defer close(p.watched)
		tick := time.NewTicker(watchPause)
		defer tick.Stop()
		for n := 1; n <= cuts; {
			select {
			case <-p.end:
				return
			case <-tick.C:
			}
			if !p.waits(n) {
				continue
			}
			if p.err = p.outage(); p.err != nil {
				return
			}
			n++
		}
	}()
}

// waits says whether a program stopped itself for the n-th cut.
func (p *power) waits(n int) bool {
	data, err := os.ReadFile(p.cutFile(n))
	pid, nerr := strconv.Atoi(strings.TrimSpace(string(data)))
	return err == nil && nerr == nil && state(pid) == "T"
}

// state is that of a process, as ps shows it.
func state(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) == 0 {
		return ""
	}
	return f[0]
}

// unwatch ends the watch of a run, and says what went wrong with the disk.
func (p *power) unwatch() error {
	close(p.end)
	<-p.watched
	return p.err
}

// outage cuts the power and gives it back.
func (p *power) outage() error {
	p.gate.Lock()
	defer p.gate.Unlock()
	// All at the same moment: none may see another one, or the disk, fail.
	var frozen []int
	for {
		pids := slices.DeleteFunc(p.processes(), func(pid int) bool { return slices.Contains(frozen, pid) })
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
		frozen = append(frozen, pids...)
	}
	if err := powercut.Cut(p.w.dir); err != nil {
		return err
	}
	for _, pid := range frozen {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	ctx, cancel := context.WithTimeout(context.Background(), outageTimeout)
	defer cancel()
	for len(p.processes()) > 0 {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("programs outlive the power cut: %w", err)
		}
	}
	for {
		if err := errors.Join(p.unmount(), run("mount", p.device, p.w.dir)); err != nil {
			return err
		}
		// While a thread of a program that was killed is still on its way out, the
		// kernel has the old file system, and gives it back.
		err := p.writes()
		if err == nil {
			break
		}
		if pause(ctx) != nil {
			return fmt.Errorf("the disk did not come back: %w", err)
		}
	}
	// What lived in memory.
	return errors.Join(emptyDir(p.w.run), p.newBoot())
}

// writes says whether the disk takes anything.
func (p *power) writes() error {
	name := p.w.path(".probe")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return err
	}
	return os.Remove(name)
}

func (p *power) unmount() error {
	ctx, cancel := context.WithTimeout(context.Background(), outageTimeout)
	defer cancel()
	for {
		err := syscall.Unmount(p.w.dir, 0)
		if err == nil {
			return nil
		}
		if perr := pause(ctx); perr != nil {
			return fmt.Errorf("unmounting %s: %w", p.w.dir, err)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watchPause):
		return nil
	}
}

// processes are those of the world that live: they name it in their environment.
func (p *power) processes() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if bytes.Contains(environ(pid), []byte("="+p.w.top+"/")) && state(pid) != "Z" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// environ is the environment of a process; nil where it has none.
func environ(pid int) []byte {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	for range 20 {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || len(env) > 0 {
			return env
		}
		if _, err := os.Readlink(filepath.Join(dir, "exe")); err != nil {
			return nil // The kernel's own.
		}
		// While it executes another program it has none for a moment.
		time.Sleep(time.Millisecond)
	}
	return nil
}

// open waits until the power is on, and keeps it on until the returned function
// is called; without a power supply there is nothing to wait for.
func (p *power) open() (done func()) {
	if p == nil {
		return func() {}
	}
	p.gate.RLock()
	return p.gate.RUnlock
}

// begin starts a program while the power is on.
func (p *power) begin(cmd *exec.Cmd) error {
	defer p.open()()
	return cmd.Start()
}

// sync makes what the world consists of durable: what is not the programs' own
// doing is on the disk when they start.
func (p *power) sync() error {
	if p == nil {
		return nil
	}
	return run("sync", "--file-system", p.w.dir)
}

// emptyDir removes what is in a directory, and not the directory itself: it may
// be where a disk is mounted.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file of the world for good, as people's editors do.
func (w *world) writeFile(name string, data []byte) error {
	defer w.power.open()()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if w.power != nil {
		err = errors.Join(err, f.Sync())
	}
	return errors.Join(err, f.Close())
}
