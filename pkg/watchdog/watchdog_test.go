package watchdog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// manager is a service manager's end of NOTIFY_SOCKET.
type manager struct {
	t       *testing.T
	conn    *net.UnixConn
	address string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "w") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, address: filepath.Join(dir, "s")}
	m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.conn.Close(); _ = os.RemoveAll(dir) })
	return m
}

// next returns the next message; "" where none comes within d.
func (m *manager) next(d time.Duration) string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		m.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// until reads messages until one has the text.
func (m *manager) until(text string) string {
	m.t.Helper()
	for {
		got := m.next(20 * time.Second)
		if got == "" {
			m.t.Fatalf("no message with %q", text)
		}
		if strings.Contains(got, text) {
			return got
		}
	}
}

const asChild = "FLEET_WATCHDOG_TEST"

// TestMain is the supervised program as well: what it does is in the environment.
func TestMain(m *testing.M) {
	switch os.Getenv(asChild) {
	case "":
		os.Exit(m.Run())
	case "good":
		child(nil)
	case "lock":
		var mu sync.Mutex
		mu.Lock()
		time.AfterFunc(500*time.Millisecond, func() {}) // others go on
		child(&mu)
	case "late":
		p := NewProgress(time.Now)
		p.Loop("worker", "hanging", 300*time.Millisecond)
		run(p, func() string { return "works" })
	}
	os.Exit(3)
}

// child runs supervised; mu is a lock that everything depends on, and that is held
// from the second status on.
func child(mu *sync.Mutex) {
	p := NewProgress(time.Now)
	l := p.Loop("worker", "building", time.Hour) // a long build is progress
	defer l.Ends()
	asked := 0
	run(p, func() string {
		if asked++; asked > 1 && mu != nil {
			mu.Lock()
		}
		return "works"
	})
}

func run(p *Progress, status func() string) {
	s, err := FromEnvironment(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil || s == nil {
		_, _ = io.WriteString(os.Stderr, "nobody supervises\n")
		os.Exit(4)
	}
	for _, name := range []string{envSocket, envUsec, envPID} {
		if _, ok := os.LookupEnv(name); ok {
			os.Exit(5) // what it starts would speak for it
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	c := make(chan os.Signal, 1)
	go func() {
		b := make([]byte, 1)
		_, _ = os.Stdin.Read(b) // the end of standard input ends it in order
		close(c)
		stop()
	}()
	s.Run(ctx, p, status, nil)
	os.Exit(0)
}

// supervised starts this program as a service manager would.
func supervised(t *testing.T, what string, env ...string) (cmd *exec.Cmd, stdin io.Closer, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), env...), asChild+"="+what)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr = &bytes.Buffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, in, stderr
}

const usec = "1500000"

// A real process tells a real socket that it is up, that it goes on though its
// build takes long, and that it stops.
func TestGoesOn(t *testing.T) {
	m := newManager(t)
	cmd, stdin, stderr := supervised(t, "good", envSocket+"="+m.address, envUsec+"="+usec)
	if got := m.next(20 * time.Second); got != "READY=1\nSTATUS=works" {
		t.Fatalf("first %q\n%s", got, stderr)
	}
	for range 4 {
		if got := m.next(20 * time.Second); got != "WATCHDOG=1\nSTATUS=works" {
			t.Errorf("then %q", got)
		}
	}
	_ = stdin.Close()
	m.until("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
}

// A loop that is late, and a lock that is never let go, end the feeding; the
// service manager's signal then shows where each goroutine is.
func TestStuckIsNotFed(t *testing.T) {
	for _, what := range []string{"late", "lock"} {
		t.Run(what, func(t *testing.T) {
			m := newManager(t)
			cmd, _, stderr := supervised(t, what, envSocket+"="+m.address, envUsec+"="+usec)
			m.until("READY=1")
			for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
				got := m.next(time.Until(end))
				if strings.Contains(got, "WATCHDOG=1") {
					t.Errorf("it is fed: %q", got)
				}
				if what == "late" && got != "" && !strings.Contains(got, "STATUS=stuck: worker: hanging, for ") {
					t.Errorf("it doesn't say what is stuck: %q", got)
				}
			}
			if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "goroutine ") {
				t.Errorf("%v: no goroutines in %q", err, stderr)
			}
			if what == "late" && !strings.Contains(stderr.String(), "worker: hanging") {
				t.Errorf("the log does not name it: %s", stderr)
			}
		})
	}
}

// Where only this program watches itself, it ends itself.
func TestEndsItself(t *testing.T) {
	cmd, stdin, stderr := supervised(t, "late", envUsec+"="+usec)
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "SIGABRT") {
		t.Errorf("%v\n%s", err, stderr)
	}
	_ = stdin.Close()
	cmd, stdin, stderr = supervised(t, "good", envUsec+"="+usec)
	time.Sleep(4 * time.Second)
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("it was fed: %v\n%s", err, stderr)
	}
}

func TestProgress(t *testing.T) {
	now := time.Now()
	p := NewProgress(func() time.Time { return now })
	a, b := p.Loop("a", "deciding", time.Minute), p.Loop("b", "building", time.Hour)
	stuck := func(want string) {
		t.Helper()
		if got := p.Stuck(); got != want {
			t.Errorf("stuck is %q, want %q", got, want)
		}
	}
	stuck("")
	now = now.Add(time.Minute)
	stuck("")
	now = now.Add(time.Second)
	stuck("a: deciding, for 1m1s")
	a.Waits()
	now = now.Add(10 * time.Hour)
	stuck("b: building, for 10h1m1s")
	a.Does("activating", time.Second)
	now = now.Add(2 * time.Second)
	stuck("a: activating, for 2s; b: building, for 10h1m3s")
	b.Ends()
	stuck("a: activating, for 2s")
	a.Ends()
	stuck("")
	var none *Progress
	l := none.Loop("x", "y", 0)
	l.Does("x", 0)
	l.Waits()
	l.Ends()
}

// How often, and when not, in the clock's own time.
func TestPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var aborted atomic.Bool
		s := &Supervisor{period: 90 * time.Second, log: slog.New(slog.DiscardHandler), abort: func() { aborted.Store(true) }}
		ctx, stop := context.WithCancel(t.Context())
		p := NewProgress(time.Now)
		l := p.Loop("w", "building", 10*time.Minute)
		done := make(chan struct{})
		go func() {
			s.Run(ctx, p, func() string { return "" }, nil)
			close(done)
		}()
		time.Sleep(9 * time.Minute)
		if aborted.Load() {
			t.Error("a build within its time ended it")
		}
		// The last feeding is at most 30 s before the loop is late.
		time.Sleep(time.Minute + 90*time.Second)
		synctest.Wait()
		if !aborted.Load() {
			t.Error("it was not ended when the loop was late for the whole period")
		}
		l.Ends()
		stop()
		<-done
	})
}

func TestFromEnvironment(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	unset := func(t *testing.T) {
		for _, name := range []string{envSocket, envUsec, envPID} {
			t.Setenv(name, "")
		}
	}
	for name, tt := range map[string]struct {
		env  map[string]string
		none bool
		fail string
	}{
		"nothing":            {nil, true, ""},
		"another process":    {map[string]string{envUsec: "5000000", envPID: "1"}, true, ""},
		"no number":          {map[string]string{envUsec: "soon"}, false, "microseconds"},
		"negative":           {map[string]string{envUsec: "-1"}, false, "microseconds"},
		"beyond any use":     {map[string]string{envUsec: "9000000000000000000"}, false, "microseconds"},
		"no socket there":    {map[string]string{envSocket: "/nonexistent/socket"}, false, "reaching the service manager"},
		"by itself":          {map[string]string{envUsec: "5000000"}, false, ""},
		"not a socket, a VM": {map[string]string{envSocket: "vsock:2:1"}, false, "reaching the service manager"},
	} {
		t.Run(name, func(t *testing.T) {
			unset(t)
			for k, v := range tt.env {
				t.Setenv(k, v)
			}
			s, err := FromEnvironment(log)
			if (err == nil) != (tt.fail == "") || err != nil && !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("%v, want %q", err, tt.fail)
			}
			if err == nil && (s == nil) != tt.none {
				t.Errorf("%+v", s)
			}
		})
	}
	// Nobody hears nothing, and nothing hangs.
	var nobody *Supervisor
	nobody.Run(t.Context(), NewProgress(time.Now), nil, nil)
}

func TestStatusLine(t *testing.T) {
	for in, want := range map[string]string{
		"a\nREADY=0": "STATUS=a READY=0", "": "STATUS=", strings.Repeat("x", 600): "STATUS=" + strings.Repeat("x", maxStatus),
		strings.Repeat("x", maxStatus-1) + "ü": "STATUS=" + strings.Repeat("x", maxStatus-1),
	} {
		if got := statusLine(in); got != want {
			t.Errorf("%q is %q", in, got)
		}
	}
}
