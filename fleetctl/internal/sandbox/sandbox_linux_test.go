package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/pkg/generator"
)

// open is the real sandbox, which these tests need: apt-get install bubblewrap.
func open(t *testing.T, o Options) *Sandbox {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, _ := os.ReadDir(s.dir)
		if err := s.Close(); err != nil || len(left) > 0 {
			t.Errorf("left %v: %v", left, err)
		}
		if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there", s.dir)
		}
	})
	return s
}

func TestRun(t *testing.T) {
	t.Setenv("FLEET_TEST_SECRET", "of the caller")
	var fs unix.Statfs_t
	s := open(t, Options{})
	if err := unix.Statfs(s.dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Errorf("%s is not in memory: %v", s.dir, err)
	}
	files, err := s.Run(t.Context(), Job{
		Name: "shared/all",
		Script: `cat "$in/ca/key" "$prompts/who" >"$out/both"
printf '\0\xff' >"$out/binary"
: >"$out/empty"
env | cut -d= -f1 | sort >"$out/env"
id -un >"$out/who"; pwd >>"$out/who"
stat -c %a "$in/ca/key" "$in/ca" "$in" >"$out/modes"
echo x >>"$in/ca/key"
echo x >here
ls -A / /root /home /etc 2>/dev/null >"$out/seen" || true
wc -l </proc/net/dev >"$out/net"
ulimit -c >>"$out/net"
echo more >"$out/undeclared"`,
		Inputs:  map[string]generator.Files{"ca": {"key": generator.NewValue([]byte("KEY\n")), "key.pub": generator.NewValue([]byte("PUB"))}},
		Prompts: map[string]generator.Value{"who": generator.NewValue([]byte("tara"))}, Kept: []string{"who-not"},
		Files: []string{"both", "binary", "empty", "env", "who", "modes", "seen", "net"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"both": "KEY\ntara", "binary": "\x00\xff", "empty": "", "who": "sandbox\n/tmp\n", "modes": "600\n700\n700\n", "net": "3\n0\n",
		"env": "HOME\nLANG\nPATH\nPWD\nSHLVL\nTMPDIR\n_\nin\nout\nprompts\n",
	} {
		got := string(files[name].Bytes())
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	seen := string(files["seen"].Bytes())
	if strings.Contains(seen, "shadow") || strings.Contains(seen, "root\n") || strings.Contains(seen, "home\n") {
		t.Errorf("it sees\n%s", seen)
	}
	if len(files) != 8 {
		t.Errorf("%d files", len(files))
	}
}

// TestKept: answers that are kept are files without the script's doing; programs that want
// to know who they are do.
func TestKept(t *testing.T) {
	files, err := open(t, Options{}).Run(t.Context(), Job{
		Name: "shared/wifi", Prompts: map[string]generator.Value{"password": generator.NewValue([]byte("s3cret"))}, Kept: []string{"password"},
		Script: `ssh-keygen -q -t ed25519 -N "" -C "" -f "$out/key"`, Files: []string{"password", "key", "key.pub"},
	})
	if err != nil || string(files["password"].Bytes()) != "s3cret" || !bytes.HasPrefix(files["key.pub"].Bytes(), []byte("ssh-ed25519 ")) {
		t.Errorf("%v", err)
	}
}

// TestMade: nothing is returned where one file is not what it should be, and no value is in
// an error.
func TestMade(t *testing.T) {
	s := open(t, Options{})
	for script, want := range map[string]string{
		`:`:                                  "$out/b: it is missing",
		`echo hush >"$out/a"`:                "$out/b: it is missing",
		`echo a >"$out/a"; ln -s a "$out/b"`: "it is a link",
		`echo a >"$out/a"; ln -s /etc/passwd "$out/b"`:                                "it is a link",
		`echo a >"$out/a"; mkdir "$out/b"`:                                            "no regular file",
		`echo a >"$out/a"; mkfifo "$out/b"`:                                           "no regular file",
		`echo a >"$out/a"; truncate -s 1048577 "$out/b"`:                              "1048577 bytes: at most 1048576",
		`cd "$out"; for i in {1..4100}; do : >$i; done; : >a; : >b`:                   "more than 4096 files",
		`echo a >"$out/a"; echo b >"$out/b"; exit 3`:                                  "exit status 3",
		`echo $nothing >"$out/a"; echo b >"$out/b"`:                                   "exit status 1",
		`false | cat >"$out/a"; echo b >"$out/b"`:                                     "exit status 1",
		`dd if=/dev/zero of="$out/a" bs=1M count=70`:                                  "exit status",
		`exec 3<>/dev/tcp/127.0.0.1/` + listen(t) + `; touch "$out/a" "$out/b"`:       "exit status 1",
		`getent hosts example.org >"$out/a"; echo b >"$out/b"`:                        "exit status 2",
		`echo a >"$out/a"; echo b >/usr/fleet-test`:                                   "exit status 1",
		`echo a >"$out/a"; kill -9 $$`:                                                "exit status 137",
		`rm -rf "$out" || :; mv "$out" /tmp/x || ln -s /etc "$out/a"; echo >"$out/b"`: "it is a link",
	} {
		files, err := s.Run(t.Context(), Job{Name: "x", Script: script, Files: []string{"a", "b"}})
		if files != nil || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, %v", script, files, err)
		}
		if !errors.Is(err, ErrScript) && !errors.Is(err, ErrFiles) {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// listen is the port of somebody who answers on this machine.
func listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestOutput: it is shown where that is asked for, with the known values cut out.
func TestOutput(t *testing.T) {
	var said string
	s := open(t, Options{Output: func(name, text string) { said += name + ": " + text }})
	_, err := s.Run(t.Context(), Job{
		Name: "shared/x", Files: []string{"a"}, Inputs: map[string]generator.Files{"ca": {"key": generator.NewValue([]byte("first secret\n"))}},
		Script: `set -x; echo made here >"$out/a"; cat "$in/ca/key" "$out/a" >&2; head -c 300000 /dev/zero | tr '\0' x; echo; echo done; exit 1`,
	})
	if !errors.Is(err, ErrScript) || !strings.Contains(said, "done") || len(said) > 2*maxPrinted {
		t.Errorf("%v: %d bytes", err, len(said))
	}
	said = ""
	_, err = s.Run(t.Context(), Job{Name: "shared/x", Files: []string{"a"}, Script: `echo made here >"$out/a"; cat "$out/a"; exit 1`})
	if said != "shared/x: (hidden)" || strings.Contains(err.Error(), "made") {
		t.Errorf("%v: %q", err, said)
	}
}

// TestInterrupted: nothing of a script lives on, its children that have sessions of their
// own among them.
func TestInterrupted(t *testing.T) {
	s := open(t, Options{})
	mark := fmt.Sprintf("%d.%d", os.Getpid(), time.Now().UnixNano()%1e6+1e6)
	for name, end := range map[string]string{"interrupted": "wait", "ended": ":"} {
		ctx, stop := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := s.Run(ctx, Job{Name: "x", Script: "setsid sleep 9" + mark + " & setsid sleep 9" + mark + " & touch $out/a; " + end, Files: []string{"a"}})
			done <- err
		}()
		errStop := errors.New("interrupted")
		if name == "interrupted" {
			await(t, func() bool { return running(t, mark) > 1 })
			stop(errStop)
		}
		if err := <-done; name == "interrupted" && !errors.Is(err, errStop) || name == "ended" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		await(t, func() bool { return running(t, mark) == 0 })
		stop(nil)
	}
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to be")
		}
	}
}

// running counts the processes of sleep with a mark in their arguments.
func running(t *testing.T, mark string) (n int) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range list {
		if text, err := os.ReadFile(file); err == nil && bytes.HasPrefix(text, []byte("sleep\x00")) && bytes.Contains(text, []byte(mark)) {
			n++
		}
	}
	return n
}

// TestUnable: a bwrap that can make no namespaces is no sandbox, and the script did not run.
func TestUnable(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "bwrap")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := find(Options{}, "linux", func(name string) (string, error) {
		if name == "bwrap" {
			return fake, nil
		}
		return exec.LookPath(name)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.dir = t.TempDir()
	if _, err := s.Run(t.Context(), Job{Name: "x", Script: ":"}); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "uid map") {
		t.Errorf("%v", err)
	}
}

// TestLeftInMemory: what a run that was killed left is removed by the next, and what
// another has is not.
func TestLeftInMemory(t *testing.T) {
	base := t.TempDir()
	left := filepath.Join(base, fmt.Sprintf("fleetctl-%d-1", os.Getuid()))
	if err := os.MkdirAll(filepath.Join(left, "run-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	first, free, err := memoryIn(base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there", left)
	}
	_, freeSecond, err := memoryIn(base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first); err != nil {
		t.Error(err)
	}
	if err := errors.Join(free(), freeSecond()); err != nil {
		t.Error(err)
	}
	if list, _ := os.ReadDir(base); len(list) > 0 {
		t.Errorf("left %v", list)
	}
}

// storeAt is a sandbox in which a directory stands for the Nix store.
type storeAt struct {
	bubblewrap

	dir string
}

func (s storeAt) command(w work, bash []string) []string {
	args := s.bubblewrap.command(w, bash)
	return slices.Insert(args, slices.Index(args, "--chdir"), "--ro-bind", s.dir, "/nix/store")
}

// TestProgram: a script of the Nix store, which has no first line that names bash.
func TestProgram(t *testing.T) {
	s := open(t, Options{})
	wrap, _ := s.system.(bubblewrap)
	store := storeAt{wrap, t.TempDir()}
	s.system = store
	if err := os.WriteFile(filepath.Join(store.dir, "generator-x"), []byte("set -euo pipefail\necho by the flake >$out/a\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	files, err := s.Run(t.Context(), Job{Name: "x", Program: "/nix/store/generator-x", Files: []string{"a"}})
	if err != nil || string(files["a"].Bytes()) != "by the flake\n" {
		t.Errorf("%v", err)
	}
}
