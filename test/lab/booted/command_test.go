//go:build linux

package booted

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// answered has a connection's other end be served by a program, as a machine's systemd
// serves it.
func answered(t *testing.T, program string) *net.TCPConn {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- func() error {
			conn, err := l.AcceptTCP()
			if err != nil {
				return err
			}
			f, err := conn.File()
			if err != nil {
				return errors.Join(err, conn.Close())
			}
			cmd := exec.Command("sh", file) //nolint:noctx // It ends with its connection.
			cmd.Stdin, cmd.Stdout = f, f
			return errors.Join(cmd.Run(), f.Close(), conn.Close())
		}()
	}()
	conn, err := net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr)) //nolint:forcetypeassert // Of tcp.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), <-served, l.Close()); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// here is runCommand for a machine whose /run this test may not write to.
func here(t *testing.T) string {
	t.Helper()
	return strings.Replace(runCommand, "/run/lab-run", filepath.Join(t.TempDir(), "lab-run"), 1)
}

func TestMachineRunsCommands(t *testing.T) {
	out, errs, err := exchange(answered(t, here(t)), "from here\n", []string{"sh", "-c", `cat; echo "$0" "$1"; echo oh >&2`, "it's", "a  b\nc"})
	if err != nil || out != "from here\nit's a  b\nc\n" || errs != "oh\n" {
		t.Errorf("%q, %q, %v", out, errs, err)
	}
	_, errs, err = exchange(answered(t, here(t)), "", []string{"sh", "-c", "echo no >&2; exit 3"})
	if err == nil || err.Error() != "exit status 3" || errs != "no\n" {
		t.Errorf("%q, %v", errs, err)
	}
}

func TestMachineThatGoesIsNoAnswer(t *testing.T) {
	for _, answer := range []string{"", "0 5 0\nabc", "0 1", "what\n"} {
		program := "cat >/dev/null; printf '" + answer + "'"
		if _, _, err := exchange(answered(t, program), "", []string{"true"}); !errors.Is(err, errNoAnswer) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func TestOnlyPartsThatCannotBeHadAreNoFailure(t *testing.T) {
	exit := errors.New("exit status 100")
	for _, out := range []string{
		"Get:1 x\nE: Failed to fetch http://deb.example.org/x.deb  Could not resolve\n",
		"W: Failed to fetch http://deb.example.org/InRelease  Could not resolve\nE: Unable to locate package x\n",
	} {
		if err := partsFailed(out, exit); !errors.Is(err, ErrNotHere) {
			t.Errorf("%q: %v", out, err)
		}
	}
	if err := partsFailed("xz: File format not recognized\n", exit); errors.Is(err, ErrNotHere) || !errors.Is(err, exit) {
		t.Error(err)
	}
}
