package coordinator_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// fullEnv tells the test binary that it runs in a mount namespace of its own.
const fullEnv = "FLEETTEST_FULL"

// TestDiskFull lets the disk of the state directory be full at every write of a
// publish, by bytes and by inodes: on small tmpfs in a namespace of its own
// where the kernel lets users have one, and everywhere by a limit on the size
// of files, which fails the same writes of bytes.
func TestDiskFull(t *testing.T) {
	switch os.Getenv(fullEnv) {
	case "mount":
		t.Run("bytes", diskFullBytes)
		t.Run("inodes", diskFullInodes)
		return
	case "limit":
		diskFullLimit(t)
		return
	}
	again := func(how string, attr *syscall.SysProcAttr) error {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), fullEnv+"="+how)
		cmd.SysProcAttr = attr
		out, err := cmd.CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "steps without room") {
				t.Log(how, strings.TrimSpace(line))
			}
		}
		if err == nil && !strings.Contains(string(out), "steps without room") || errors.As(err, new(*exec.ExitError)) {
			t.Errorf("%s: %v\n%s", how, err, out)
			return nil
		}
		return err
	}
	check(t, again("limit", nil))
	if err := again("mount", &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}); err != nil {
		t.Logf("this kernel gives users no namespaces (%v): only the limit on files shows it here", err)
	}
}

// tmpfs mounts a small disk over the state directory of a world to be.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves so many bytes free, by a file of its own; a negative number
// leaves all.
func fill(t *testing.T, dir string, free int64) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if free < 0 {
		return
	}
	var st unix.Statfs_t
	check(t, unix.Statfs(dir, &st))
	size := int64(st.Bavail)*st.Bsize - free //nolint:gosec // Small.
	if size <= 0 {
		t.Fatalf("%d bytes are to be left, there are %d", free, size+free)
	}
	f, err := os.Create(path)
	check(t, err)
	check(t, errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Close()))
}

// attempt publishes one generation, and says whether it was acknowledged.
func (w *world) attempt(number uint64, expected fleet.ReleaseID) (id fleet.ReleaseID, ref fleet.Ref, err error) {
	w.t.Helper()
	op := w.operator("dana")
	id = fleet.ReleaseID("r" + strconv.FormatUint(number, 10))
	data, src := content(string(id))
	if err := w.upload(op, data, src); err != nil {
		return id, ref, fmt.Errorf("uploading: %w", err)
	}
	g, ref := w.generation("galena", number, id, src)
	if _, err := w.stage(op, id, &fleetv1.SignedGeneration{Generation: g}); err != nil {
		return id, ref, fmt.Errorf("staging: %w", err)
	}
	_, err = op.Commit(w.t.Context(), &fleetv1.CommitRequest{Release: string(id), Count: 1, ExpectedHead: string(expected)})
	if err != nil {
		return id, ref, fmt.Errorf("committing: %w", err)
	}
	return id, ref, nil
}

// fullWorld is a fleet over a small disk, with a host that reports.
func fullWorld(t *testing.T, options string) (*world, *agent, fleet.Ref) {
	t.Helper()
	w := newWorld(t)
	w.stop()
	w.state = tmpfs(t, options)
	w.start()
	a := w.enrolled("galena")
	ref := w.publish("r1", "", 1, galena)["galena"]
	return w, a, ref
}

// steps tries to publish with more and more room, until it works, and checks
// after each attempt that nothing half is taken for whole, that what was there
// is there, and that reading goes on.
// Where both is set, what is uploaded has room every second time, so that the
// store meets the full disk too.
func steps(t *testing.T, w *world, a *agent, ref fleet.Ref, both bool, room func(step int)) {
	refusals := map[string]int{}
	head, number := fleet.ReleaseID("r1"), uint64(2)
	done := 0
	for step := 0; done < 3; step++ {
		if both && step%2 == 1 {
			room(-1)
			data, src := content("r" + strconv.FormatUint(number, 10))
			check(t, w.upload(w.operator("dana"), data, src))
		}
		room(step)
		id, next, err := w.attempt(number, head)
		if err == nil {
			head, ref = id, next
			number++
			done++
		} else {
			r, ok := refusal.Of(err)
			if !ok || r.Code != refusal.DiskFull || status.Code(err) != codes.ResourceExhausted || !strings.Contains(r.Hint, "make room") {
				t.Errorf("step %d: %v (%+v)", step, err, r)
			}
			what, _, _ := strings.Cut(err.Error(), ":")
			refusals[what]++
		}
		if got := a.newest(); got != ref.Digest {
			t.Fatalf("step %d: %s is desired, %s was acknowledged", step, got.Short(), ref.Digest.Short())
		}
		// A report that can't be written is refused by name, never acknowledged.
		before := a.seq
		var long []fleet.Transition
		for range 30 {
			tr := a.transition(fleet.StateHeld, ref)
			tr.Reason = fleet.Reason{Code: fleet.ReasonPaused, Message: strings.Repeat("x", 1500)}
			long = append(long, tr)
		}
		resp, err := a.host.Report(t.Context(), &fleetv1.ReportRequest{Report: a.sealReport(fleet.ProfileStatus{State: fleet.StateHeld, Highest: ref}, long...)})
		switch {
		case err == nil && resp.GetAckedSeq() != a.seq:
			t.Errorf("step %d: acknowledged %d of %d", step, resp.GetAckedSeq(), a.seq)
		case err != nil:
			a.seq = before // It is said again.
			if r, _ := refusal.Of(err); r.Code != refusal.DiskFull {
				t.Errorf("step %d: reporting: %v", step, err)
			}
			refusals["reporting"]++
		}
		w.events("")
	}
	// Without a restart all is well again; and a restart finds the same.
	_, src := content(string(head))
	for range 2 {
		if got := a.newest(); got != ref.Digest {
			t.Errorf("%s is desired, %s was acknowledged", got.Short(), ref.Digest.Short())
		}
		if _, err := a.fetch(src, 0); err != nil {
			t.Error(err)
		}
		w.status("galena")
		room(-1)
		w.stop()
		w.start()
		a.use(a.cert.Certificate[0])
	}
	events := w.events("galena")
	if n, _ := count(events, "transition"); n != int(a.seq) { //nolint:gosec // Small.
		t.Errorf("%d transitions on record, %d were acknowledged", n, a.seq)
	}
	total := 0
	for _, n := range refusals {
		total += n
	}
	if total == 0 {
		t.Error("the disk was never full: the test shows nothing")
	}
	t.Logf("%d steps without room: %v", total, refusals)
}

func diskFullBytes(t *testing.T) {
	w, a, ref := fullWorld(t, "size=32m")
	const page = 4 << 10
	steps(t, w, a, ref, true, func(step int) {
		if step < 0 {
			fill(t, w.state, -1)
			return
		}
		// Fine steps while little is free, then coarser ones.
		fill(t, w.state, int64(page*step*(1+step/24)))
	})
}

func diskFullInodes(t *testing.T) {
	w, a, ref := fullWorld(t, "size=64m,nr_inodes=64")
	var st unix.Statfs_t
	check(t, unix.Statfs(w.state, &st))
	var made []string
	for n := range int(st.Ffree) { //nolint:gosec // Small.
		path := filepath.Join(w.state, fmt.Sprintf("filler-%d", n))
		check(t, os.WriteFile(path, nil, 0o600))
		made = append(made, path)
	}
	free := func(n int) {
		for range min(n, len(made)) {
			check(t, os.Remove(made[0]))
			made = made[1:]
		}
	}
	steps(t, w, a, ref, false, func(step int) {
		switch {
		case step < 0:
			free(len(made))
		case step > 1:
			free(1)
		}
	})
}

// diskFullLimit needs nothing of the kernel that not every one gives.
func diskFullLimit(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ) // so that a write beyond the limit is an error
	w := newWorld(t)
	a := w.enrolled("galena")
	ref := w.publish("r1", "", 1, galena)["galena"]
	var was unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &was))
	t.Cleanup(func() { check(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &was)) })
	const page = 4 << 10
	steps(t, w, a, ref, true, func(step int) {
		limit := was
		if step >= 0 {
			limit.Cur = uint64(page * step * (1 + step/24)) //nolint:gosec // Small.
		}
		check(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	})
}
