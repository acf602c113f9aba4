package launchd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/launchd"
	"github.com/cameronraysmith/fleet/agent/internal/launchd/launchdtest"
	"github.com/cameronraysmith/fleet/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "io.github.cameronraysmith.fleet-activation."

func newJobs(t *testing.T, again bool) (*launchdtest.Launchd, *launchd.Jobs) {
	t.Helper()
	l := launchdtest.Start(t)
	return l, &launchd.Jobs{Launchctl: l.Launchctl(), Dir: filepath.Join(t.TempDir(), "jobs"), Name: "fleet-activation", Again: again}
}

// another are the same jobs, as another agent has them.
func another(j *launchd.Jobs) *launchd.Jobs {
	return &launchd.Jobs{Launchctl: j.Launchctl, Dir: j.Dir, Name: j.Name, Again: j.Again}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ended waits until a job's program is over.
func ended(t *testing.T, l *launchdtest.Launchd, label string) {
	t.Helper()
	for range 1000 {
		if l.PID(label) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s goes on", label)
}

// The property list has what launchd is to see, whatever the arguments are, and is of
// nothing that plutil would refuse (the stand-in reads it with a parser of such lists).
func TestJobsList(t *testing.T) {
	l, j := newJobs(t, false)
	if err := j.Start(t.Context(), "a", []string{"/bin/echo", `<&>"'`, "]]>", "a  b"}); err != nil {
		t.Fatal(err)
	}
	list := l.Lists[prefix+"a"]
	if d := cmp.Diff([]any{"/bin/echo", `<&>"'`, "]]>", "a  b"}, list["ProgramArguments"]); d != "" {
		t.Error(d)
	}
	log := filepath.Join(j.Dir, prefix+"a.log")
	for key, want := range map[string]any{"RunAtLoad": true, "KeepAlive": nil, "AbandonProcessGroup": true, "StandardOutPath": log, "StandardErrorPath": log} {
		if list[key] != want {
			t.Errorf("%s is %v, want %v", key, list[key], want)
		}
	}
	ended(t, l, prefix+"a")
	if said, err := os.ReadFile(log); err != nil || string(said) != `<&>"' ]]> a  b`+"\n" {
		t.Errorf("%q, %v", said, err)
	}
	fi, err := os.Stat(filepath.Join(j.Dir, prefix+"a.plist"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	for _, argv := range [][]string{nil, {"echo"}, {"/bin/echo", "a\nb"}, {"/bin/echo", "\xff"}} {
		if err := j.Start(t.Context(), "b", argv); err == nil {
			t.Errorf("%q is taken", argv)
		}
	}
	l, j = newJobs(t, true)
	if err := j.Start(t.Context(), "a", []string{"/bin/true"}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]any{"SuccessfulExit": false}, l.Lists[prefix+"a"]["KeepAlive"]); d != "" {
		t.Error(d)
	}
}

// What is over is taken away, also by another agent; what goes on is left alone, and so
// is what launchd is to start again.
func TestJobsClear(t *testing.T) {
	for _, again := range []bool{false, true} {
		l, j := newJobs(t, again)
		for id, script := range map[string]string{"good": "exit 0", "bad": "exit 3", "killed": "kill -9 $$", "on": "exec sleep 600"} {
			if err := j.Start(t.Context(), id, []string{"/bin/sh", "-c", script}); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Up(t.Context(), "on"); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"good", "bad", "killed"} {
			ended(t, l, prefix+id)
		}
		// Its agent died before it was loaded.
		if err := os.WriteFile(filepath.Join(j.Dir, prefix+"unloaded.plist"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		another(j).Clear(t.Context())
		want := []string{prefix + "on"}
		if again {
			want = []string{prefix + "bad", prefix + "killed", prefix + "on"}
		}
		if d := cmp.Diff(want, l.Loaded()); d != "" {
			t.Errorf("again %t: %s", again, d)
		}
		if n := len(files(t, j.Dir)); n != 2*len(want) {
			t.Errorf("again %t: left %q", again, files(t, j.Dir))
		}
	}
}

// What one worker starts, another one's Clear leaves alone, whichever of the two comes
// first to ask launchd; what is over it takes away meanwhile.
func TestJobsClearWhileOneStarts(t *testing.T) {
	for name, tt := range map[string]struct {
		// first is what launchctl is called with first, and waits in until the other is done.
		first string
		then  func(t *testing.T, j *launchd.Jobs, start func())
	}{
		"loaded late":    {"bootstrap ", func(t *testing.T, j *launchd.Jobs, _ func()) { j.Clear(t.Context()) }},
		"looked at late": {"print ", func(_ *testing.T, _ *launchd.Jobs, start func()) { start() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, j := newJobs(t, true)
			begun, goOn := make(chan struct{}), make(chan struct{})
			var once sync.Once
			l.Before = func(args string) {
				if strings.HasPrefix(args, tt.first) {
					once.Do(func() {
						close(begun)
						<-goOn
					})
				}
			}
			if err := os.Mkdir(j.Dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(j.Dir, prefix+"over.plist"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			start := func() {
				if err := j.Start(t.Context(), "a", []string{"/bin/sh", "-c", "exec sleep 600"}); err != nil {
					t.Error(err)
				}
			}
			var both sync.WaitGroup
			both.Go(func() {
				if strings.HasPrefix(tt.first, "bootstrap") {
					start()
				} else {
					j.Clear(t.Context())
				}
			})
			<-begun
			tt.then(t, j, start)
			close(goOn)
			both.Wait()
			if err := j.Up(t.Context(), "a"); err != nil {
				t.Error(err)
			}
			if got := l.Loaded(); !slices.Equal(got, []string{prefix + "a"}) {
				t.Errorf("loaded %v", got)
			}
			if d := cmp.Diff([]string{prefix + "a.log", prefix + "a.plist"}, files(t, j.Dir)); d != "" {
				t.Error(d)
			}
			// Later it is a job like others.
			j.Drop(t.Context(), "a")
			if got := files(t, j.Dir); len(got) > 0 {
				t.Errorf("left %v", got)
			}
		})
	}
}

// Property lists are written into no directory that another may write to, and over no link.
func TestJobsDirectory(t *testing.T) {
	for name, made := range map[string]func(dir string) error{
		"a link":             func(dir string) error { return os.Symlink(filepath.Dir(dir), dir) },
		"a file":             func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"for others to read": func(dir string) error { return os.Mkdir(dir, 0o755) }, //nolint:gosec // The point.
		"for others to write": func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o770)) //nolint:gosec // As above.
		},
		"another's": func(dir string) error { return errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 1000, -1)) },
	} {
		if name == "another's" && os.Geteuid() != 0 {
			continue // Only root may make it.
		}
		l, j := newJobs(t, false)
		if err := made(j.Dir); err != nil {
			t.Fatal(err)
		}
		if err := j.Start(t.Context(), "a", []string{"/bin/true"}); !errors.Is(err, launchd.ErrDir) || !strings.Contains(err.Error(), j.Dir) {
			t.Errorf("%s: %v", name, err)
		}
		if got := l.Loaded(); len(got) > 0 {
			t.Errorf("%s: loaded %v", name, got)
		}
	}
	_, j := newJobs(t, false)
	theirs := filepath.Join(t.TempDir(), "theirs")
	for _, err := range []error{
		os.Mkdir(j.Dir, 0o700), os.WriteFile(theirs, []byte("theirs"), 0o600),
		os.Symlink(theirs, filepath.Join(j.Dir, prefix+"a.plist")), os.Symlink(theirs, filepath.Join(j.Dir, prefix+"a.log")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Start(t.Context(), "a", []string{"/bin/true"}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(theirs); err != nil || string(b) != "theirs" {
		t.Errorf("%q, %v", b, err)
	}
}

// A launchd that refuses, or runs nothing, or does not answer, leaves no job behind that
// comes later, and is waited for in bounds.
func TestJobsFail(t *testing.T) {
	argv := []string{"/bin/sh", "-c", "exec sleep 600"}
	for name, tt := range map[string]struct {
		spoil func(*launchdtest.Launchd)
		argv  []string
		text  string
	}{
		"refuses":         {func(l *launchdtest.Launchd) { l.Refuse = true }, argv, "Input/output error"},
		"runs nothing":    {func(l *launchdtest.Launchd) { l.Idle = true }, argv, launchd.ErrNotUp.Error()},
		"no such program": {func(*launchdtest.Launchd) {}, []string{"/no/such"}, launchd.ErrNotUp.Error()},
		"ends at once":    {func(*launchdtest.Launchd) {}, []string{"/bin/sh", "-c", "exit 78"}, "exit code 78"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, j := newJobs(t, false)
			tt.spoil(l)
			err := j.Start(t.Context(), "a", tt.argv)
			if err == nil {
				if name == "ends at once" {
					ended(t, l, prefix+"a")
				}
				err = j.Up(t.Context(), "a")
			}
			if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(err.Error(), prefix+"a") {
				t.Errorf("got %v", err)
			}
			if len(l.Loaded()) > 0 || len(files(t, j.Dir)) > 0 {
				t.Errorf("left %v and %v", l.Loaded(), files(t, j.Dir))
			}
		})
	}
	t.Run("does not answer", func(t *testing.T) {
		t.Parallel()
		l, j := newJobs(t, false)
		l.Hangs = true
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := j.Start(ctx, "a", argv); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		// Whether it was loaded nobody knows: the next one looks.
		if got := files(t, j.Dir); !slices.Contains(got, prefix+"a.plist") {
			t.Errorf("there is %v", got)
		}
		l.Do(func() { l.Hangs = false })
		j.Clear(t.Context())
		if got := files(t, j.Dir); len(got) > 0 {
			t.Errorf("left %v", got)
		}
	})
}

// A job that is to be started again, and was killed, is up as long as launchd says so.
func TestJobsUp(t *testing.T) {
	l, j := newJobs(t, true)
	if err := j.Start(t.Context(), "a", []string{"/bin/sh", "-c", "exec sleep 600"}); err != nil {
		t.Fatal(err)
	}
	if err := j.Up(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(l.PID(prefix+"a"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, l, prefix+"a")
	j.Clear(t.Context())
	if got := l.Loaded(); len(got) != 1 {
		t.Errorf("taken away: %v", got)
	}
	var failed *service.ProgramError
	if _, err := j.Launchctl.Print(t.Context(), prefix+"a"); errors.As(err, &failed) {
		t.Error(err)
	}
}
