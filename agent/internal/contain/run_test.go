package contain

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(leavesVariable) != "" {
		leaves()
	}
	goleak.VerifyTestMain(m)
}

// leavesVariable has this program be one that leaves its process group.
const leavesVariable = "FLEET_TEST_LEAVES"

// leaves goes into another process group, and stays there without end.
func leaves() {
	child := exec.Command("/bin/sleep", "600") //nolint:noctx // It is killed below.
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := child.Start(); err != nil {
		panic(err)
	}
	if err := syscall.Setpgid(0, child.Process.Pid); err != nil {
		panic(err)
	}
	_ = child.Process.Kill()
	time.Sleep(time.Hour)
}

// TestLeaderLeavesItsGroup: a program that is in no group of its own any more ends with its
// context all the same.
func TestLeaderLeavesItsGroup(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = Run(ctx, Program{Name: "test", Argv: []string{self}, Env: []string{leavesVariable + "=yes"}})
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Errorf("got %v", err)
	}
}

func sh(text string, args ...string) Program {
	return Program{Name: "test", Argv: append([]string{"/bin/sh", "-c", text, "sh"}, args...), Env: []string{"PATH=/usr/bin:/bin"}}
}

func TestRun(t *testing.T) {
	t.Parallel()
	var out, both bytes.Buffer
	p := sh(`echo out; echo err >&2; echo "$PATH $(pwd) $1"; exit 4`, "a b")
	p.Stdout, p.Stderr, p.Held = &out, &both, time.Minute
	err := Run(t.Context(), p)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 4 || out.String() != "out\n/usr/bin:/bin / a b\n" || both.String() != "err\n" {
		t.Errorf("got %v, %q, %q", err, out.String(), both.String())
	}
	both.Reset()
	p = sh(`echo 1; echo 2 >&2`)
	p.Stdout, p.Stderr, p.Held = &both, &both, time.Minute
	if err := Run(t.Context(), p); err != nil || both.String() != "1\n2\n" {
		t.Errorf("got %v, %q", err, both.String())
	}
	p = sh(`[ -z "$(env | grep HOME)" ]; pwd`)
	p.Dir = t.TempDir()
	if err := Run(t.Context(), p); err != nil {
		t.Errorf("nobody listens: %v", err)
	}
	p.Argv = []string{"/nothing/here"}
	if err := Run(t.Context(), p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("for a reason")
	cancel(why)
	if err := Run(ctx, p); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// TestRunIsTold: SIGTERM comes first where that is asked for, and time to heed it.
func TestRunIsTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		told time.Duration
		code int
		said string
	}{{0, -1, "begun\n"}, {time.Minute, 5, "begun\ntold\n"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		p := sh(`trap 'echo told; exit 5' TERM; echo begun; echo >"$1"; while :; do sleep 0.05; done`, "/proc/"+strconv.Itoa(os.Getpid())+"/fd/"+strconv.Itoa(int(w.Fd())))
		p.Told, p.Stdout, p.Held = tt.told, &out, 10*time.Second
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _ = r.Read(make([]byte, 1))
			cancel()
		}()
		err = Run(ctx, p)
		cancel()
		_, _ = w.Close(), r.Close()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != tt.code || out.String() != tt.said {
			t.Errorf("%s: got %v, %q", tt.told, err, out.String())
		}
	}
}

// TestRunLeaves: what a program left behind goes on where it has an output of its own, and
// is ended where it holds the program's.
func TestRunLeaves(t *testing.T) {
	t.Parallel()
	for text, stays := range map[string]bool{
		`sleep 600 >/dev/null 2>&1 & echo $!`: true,
		`sleep 600 & echo $!`:                 false,
	} {
		var out bytes.Buffer
		p := sh(text)
		p.Stdout, p.Held = &out, 200*time.Millisecond
		if err := Run(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
		if err != nil {
			t.Fatal(err)
		}
		if stays {
			if err := syscall.Kill(pid, 0); err != nil {
				t.Errorf("%q: it is gone: %v", text, err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			continue
		}
		gone := time.Now().Add(5 * time.Second)
		for syscall.Kill(pid, 0) == nil && !ended(pid) {
			if time.Now().After(gone) {
				t.Fatalf("%q: it is there", text)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// ended says whether a process only waits to be collected.
func ended(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// TestStuck: a user whose programs don't end gets no more of them, until they do.
func TestStuck(t *testing.T) {
	t.Parallel()
	s := stuck{of: map[uint32]int{}}
	ann, bob := &syscall.Credential{Uid: 1}, &syscall.Credential{Uid: 2}
	exited := make(chan struct{})
	for range maxStuck {
		if err := s.room(ann); err != nil {
			t.Fatal(err)
		}
		s.add(ann, &running{cmd: &exec.Cmd{}, exited: exited})
	}
	if err := s.room(ann); !errors.Is(err, ErrStuck) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(s.room(bob), s.room(nil)); err != nil {
		t.Errorf("others: %v", err)
	}
	close(exited)
	for last := time.Now().Add(5 * time.Second); s.room(ann) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(last) {
			t.Fatal("they ended, and no more are started")
		}
	}
}
