//go:build linux

package booted

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// commandPort is where machines take commands, from the lab's network only.
	commandPort = 7
	// maxErrors of a command in a host, in bytes.
	maxErrors = 64 << 10
	// dialTimeout bounds reaching a machine that may be down.
	dialTimeout = 3 * time.Second
)

// runCommand is what a machine does with a connection: a length, a script that long, and
// what it reads. It answers with the exit code and two lengths, and what was written.
const runCommand = `#!/bin/sh
dir=$(mktemp -d /run/lab-run.XXXXXX)
read -r length
head -c "$length" >"$dir/script"
code=0
HOME=/root LANG=C.UTF-8 PATH=` + Programs + `:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	sh "$dir/script" >"$dir/out" 2>"$dir/err" || code=$?
echo "$code $(stat -c %s "$dir/out") $(stat -c %s "$dir/err")"
cat "$dir/out" "$dir/err"
rm -r "$dir"
`

// errNoAnswer says that a machine was not reached, or went while it worked.
var errNoAnswer = errors.New("no answer from the machine")

// command runs a command in the machine at an address of the lab's network.
func command(ctx context.Context, address, stdin string, argv []string) (stdout, stderr string, err error) {
	conn, err := dialIn(ctx, switchSpace, fmt.Sprintf("[%s]:%d", address, commandPort))
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	return exchange(conn, stdin, argv)
}

// exchange asks for a command and reads what it did.
func exchange(conn *net.TCPConn, stdin string, argv []string) (stdout, stderr string, err error) {
	script := "exec " + quote(argv)
	if _, err := fmt.Fprintf(conn, "%d\n%s%s", len(script), script, stdin); err != nil {
		return "", "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if err := conn.CloseWrite(); err != nil {
		return "", "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxOutput+maxErrors))
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	head, body, found := bytes.Cut(answer, []byte("\n"))
	var code, out, errs int
	if _, err := fmt.Sscanf(string(head), "%d %d %d", &code, &out, &errs); !found || err != nil || out+errs != len(body) {
		return "", "", fmt.Errorf("%w: it ended, or is longer than %d bytes, after %q", errNoAnswer, maxOutput, clip(string(head)))
	}
	if code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	return string(body[:out]), string(body[out:]), err
}

// quote is a command line for sh.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// dialIn connects to an address out of a network namespace.
func dialIn(ctx context.Context, space, address string) (conn *net.TCPConn, err error) {
	// A socket is of the namespace in which its thread made it. The thread comes back: one
	// that ends would take with it what it started, by Pdeathsig.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer func() { _ = home.Close() }()
	there, err := os.Open("/run/netns/" + space)
	if err != nil {
		return nil, err
	}
	defer func() { _ = there.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("entering %s: %w", space, err)
	}
	defer func() {
		if herr := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); herr != nil {
			panic(fmt.Sprintf("leaving %s: %v", space, herr)) // Else all that follows is there.
		}
	}()
	d := net.Dialer{
		Timeout: dialTimeout,
		// A machine that is reset says nothing to those that it was connected to.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 6},
	}
	c, err := d.DialContext(ctx, "tcp6", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil //nolint:forcetypeassert // Of tcp6.
}

// Refresh copies a directory of Spec.Shared to a host that is a machine, as it is now.
// Containers have it as it is anyway.
func (h *Host) Refresh(ctx context.Context, at string) error {
	if h.machine == nil {
		return nil
	}
	for _, s := range h.shared {
		if s.At != at {
			continue
		}
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		if err := errors.Join(w.AddFS(os.DirFS(s.From)), w.Close()); err != nil {
			return fmt.Errorf("copying %s to %s: %w", at, h.Name, err)
		}
		_, err := h.Input(ctx, archive.String(), "sh", "-euc", `rm -rf "$0.new" "$0.old"
mkdir "$0.new"
tar --extract --no-same-owner --directory "$0.new"
mv "$0" "$0.old"
mv "$0.new" "$0"
rm -rf "$0.old"`, at)
		return err
	}
	return fmt.Errorf("%s shares no %s", h.Name, at)
}
