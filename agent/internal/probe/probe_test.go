package probe_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/probe"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program writes a shell script and returns its path.
func program(t *testing.T, dir, name, script string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	return path
}

func want(t *testing.T, p fleet.Probe, env probe.Env, verdict fleet.Verdict, part string) {
	t.Helper()
	got, detail := probe.Run(t.Context(), p, env)
	if got != verdict || !strings.Contains(detail, part) {
		t.Errorf("got %s, %q; want %s, %q", got, detail, verdict, part)
	}
}

// TestExecAsUser: a probe of a home profile has the rights of its user.
func TestExecAsUser(t *testing.T) {
	p := fleet.Probe{Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "id -u"}}
	env := probe.Env{Environ: []string{"PATH=/usr/bin:/bin"}, User: "no-such-user"}
	want(t, p, env, fleet.VerdictFail, "no-such-user")
	env.User = strconv.Itoa(os.Getuid())
	want(t, p, env, fleet.VerdictPass, env.User)
	if nobody, err := user.Lookup("nobody"); err == nil && os.Getuid() == 0 {
		env.User = nobody.Username
		want(t, p, env, fleet.VerdictPass, nobody.Uid)
	}
}

func TestExec(t *testing.T) {
	dir := t.TempDir()
	env := probe.Env{Path: dir, Environ: []string{"PATH=/usr/bin:/bin", "WORD=of the environment"}}
	program(t, dir, "ok", `echo "$WORD in $(pwd)"; [ -z "$HOME" ]`)
	program(t, dir, "bad", "echo something is wrong >&2; exit 3")
	program(t, dir, "unsure", "echo cannot tell; exit 75")
	program(t, dir, "killed", "kill -9 $$")
	program(t, dir, "loud", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf 'the \\033[31mend'; exit 1")
	program(t, dir, "arguments", `[ "$1" = "a b" ]`)
	for _, c := range []struct {
		name    string
		argv    []string
		verdict fleet.Verdict
		part    string
	}{
		{"pass", []string{"ok"}, fleet.VerdictPass, "of the environment in " + dir},
		{"absolute", []string{filepath.Join(dir, "ok")}, fleet.VerdictPass, ""},
		{"arguments", []string{"arguments", "a b"}, fleet.VerdictPass, ""},
		{"fail", []string{"bad"}, fleet.VerdictFail, "exit code 3: something is wrong"},
		{"inconclusive", []string{"unsure"}, fleet.VerdictInconclusive, "cannot tell"},
		{"signal", []string{"killed"}, fleet.VerdictFail, "signal"},
		{"missing", []string{"nothing"}, fleet.VerdictFail, "no such file"},
		{"outside", []string{"../ok"}, fleet.VerdictFail, "not in the bundle"},
		{"no program", nil, fleet.VerdictFail, "no program"},
		{"long output", []string{"loud"}, fleet.VerdictFail, "the [31mend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want(t, fleet.Probe{Kind: fleet.ProbeExec, Argv: c.argv}, env, c.verdict, c.part)
		})
	}
	t.Run("silent", func(t *testing.T) {
		program(t, dir, "silent", "exit 1")
		program(t, dir, "blank", "echo; exit 75")
		for argv, says := range map[string]string{"silent": "exit code 1", "blank": "exit code 75"} {
			if _, detail := probe.Run(t.Context(), fleet.Probe{Kind: fleet.ProbeExec, Argv: []string{argv}}, env); detail != says {
				t.Errorf("%s: %q, want %q", argv, detail, says)
			}
		}
	})
	t.Run("bounded", func(t *testing.T) {
		if _, detail := probe.Run(t.Context(), fleet.Probe{Kind: fleet.ProbeExec, Argv: []string{"loud"}}, env); len(detail) > 1024 {
			t.Errorf("detail has %d bytes", len(detail))
		}
	})
}

func TestExecIsKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	program(t, dir, "hang", `sleep 1000 & echo $! >child; wait`)
	p := fleet.Probe{Kind: fleet.ProbeExec, Argv: []string{"hang"}, Timeout: fleet.Duration(300 * time.Millisecond)}
	want(t, p, probe.Env{Path: dir, Environ: []string{"PATH=/usr/bin:/bin"}}, fleet.VerdictFail, "no answer within 300ms")
	gone(t, filepath.Join(dir, "child"))
}

func TestExecThatLeavesAChildPasses(t *testing.T) {
	dir := t.TempDir()
	program(t, dir, "leave", `sleep 1000 & echo $! >child; echo fine`)
	want(t, fleet.Probe{Kind: fleet.ProbeExec, Argv: []string{"leave"}},
		probe.Env{Path: dir, Environ: []string{"PATH=/usr/bin:/bin"}}, fleet.VerdictPass, "fine")
	gone(t, filepath.Join(dir, "child"))
}

// gone waits until the process in a pid file has ended: killing is not
// instant, and init reaps it.
func gone(t *testing.T, pidFile string) {
	t.Helper()
	b, err := os.ReadFile(pidFile) //nolint:gosec // A test's own file.
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(5 * time.Second)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if syscall.Kill(pid, 0) != nil || err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("process %d is still there", pid)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("all is well")) })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/circle", http.StatusFound) })
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) {
		for range 1 << 10 {
			if _, err := w.Write([]byte(strings.Repeat("x", 1<<10))); err != nil {
				return
			}
		}
		_, _ = w.Write([]byte("needle"))
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	// A proxy that nobody should ask.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	closed := "http://" + freeAddress(t)
	for _, c := range []struct {
		name    string
		probe   fleet.Probe
		verdict fleet.Verdict
		part    string
	}{
		{"pass", fleet.Probe{URL: server.URL + "/ok"}, fleet.VerdictPass, "200"},
		{"contains", fleet.Probe{URL: server.URL + "/ok", Contains: "well"}, fleet.VerdictPass, ""},
		{"contains not", fleet.Probe{URL: server.URL + "/ok", Contains: "ill"}, fleet.VerdictFail, `"ill" is not in`},
		{"body is bounded", fleet.Probe{URL: server.URL + "/huge", Contains: "needle"}, fleet.VerdictFail, "65536 bytes"},
		{"status", fleet.Probe{URL: server.URL + "/bad"}, fleet.VerdictFail, "503"},
		{"wanted status", fleet.Probe{URL: server.URL + "/bad", Status: 503}, fleet.VerdictPass, ""},
		{"other status", fleet.Probe{URL: server.URL + "/ok", Status: 204}, fleet.VerdictFail, "want 204"},
		{"redirect", fleet.Probe{URL: server.URL + "/moved"}, fleet.VerdictPass, ""},
		{"wanted redirect", fleet.Probe{URL: server.URL + "/moved", Status: 302}, fleet.VerdictPass, ""},
		{"redirects without end", fleet.Probe{URL: server.URL + "/circle"}, fleet.VerdictFail, "more than 3 redirects"},
		{"hangs", fleet.Probe{URL: server.URL + "/hang", Timeout: fleet.Duration(100 * time.Millisecond)}, fleet.VerdictFail, "no answer within 100ms"},
		{"refused", fleet.Probe{URL: closed}, fleet.VerdictFail, "refused"},
		{"no url", fleet.Probe{URL: "file:///etc/passwd"}, fleet.VerdictFail, "not http"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.probe.Kind = fleet.ProbeHTTP
			want(t, c.probe, probe.Env{}, c.verdict, c.part)
		})
	}
	t.Run("password is not repeated", func(t *testing.T) {
		url := strings.Replace(closed, "http://", "http://user:hunter2@", 1)
		if _, detail := probe.Run(t.Context(), fleet.Probe{Kind: fleet.ProbeHTTP, URL: url}, probe.Env{}); strings.Contains(detail, "hunter2") {
			t.Errorf("detail is %q", detail)
		}
	})
}

// freeAddress is one where nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l := listen(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTCP(t *testing.T) {
	l := listen(t)
	t.Cleanup(func() { _ = l.Close() })
	want(t, fleet.Probe{Kind: fleet.ProbeTCP, Address: l.Addr().String()}, probe.Env{}, fleet.VerdictPass, "connected")
	want(t, fleet.Probe{Kind: fleet.ProbeTCP, Address: freeAddress(t)}, probe.Env{}, fleet.VerdictFail, "refused")
	want(t, fleet.Probe{Kind: fleet.ProbeTCP, Address: "nonsense"}, probe.Env{}, fleet.VerdictFail, "host:port")
}

func TestSystemd(t *testing.T) {
	dir := t.TempDir()
	show := func(name, output string, code int) probe.Env {
		return probe.Env{Systemctl: program(t, dir, name, fmt.Sprintf("cat <<EOF\n%s\nEOF\nexit %d", output, code)), Environ: []string{"PATH=/usr/bin:/bin"}}
	}
	p := fleet.Probe{Kind: fleet.ProbeSystemd, Unit: "web.service"}
	for _, c := range []struct {
		name    string
		env     probe.Env
		verdict fleet.Verdict
		part    string
	}{
		{"active", show("active", "Result=success\nLoadState=loaded\nActiveState=active\nSubState=running", 0), fleet.VerdictPass, "active (running)"},
		{"failed", show("failed", "Result=exit-code\nLoadState=loaded\nActiveState=failed\nSubState=failed", 0), fleet.VerdictFail, "exit-code"},
		{"unknown unit", show("unknown", "LoadState=not-found\nActiveState=inactive\nSubState=dead", 0), fleet.VerdictFail, "does not exist"},
		{"no manager", show("offline", "Failed to connect to bus", 1), fleet.VerdictInconclusive, "Failed to connect"},
		{"nonsense", show("nonsense", "", 0), fleet.VerdictInconclusive, "no ActiveState"},
		{"no systemctl", probe.Env{Systemctl: filepath.Join(dir, "missing")}, fleet.VerdictInconclusive, "no systemctl"},
	} {
		t.Run(c.name, func(t *testing.T) { want(t, p, c.env, c.verdict, c.part) })
	}
	want(t, fleet.Probe{Kind: fleet.ProbeSystemd, Unit: "--help"}, probe.Env{}, fleet.VerdictFail, "no unit's name")
}

func TestUnknownKindIsInconclusive(t *testing.T) {
	want(t, fleet.Probe{Kind: "newer"}, probe.Env{}, fleet.VerdictInconclusive, `"newer"`)
}

func TestCancelledIsInconclusive(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, p := range []fleet.Probe{
		{Kind: fleet.ProbeTCP, Address: "127.0.0.1:1"},
		{Kind: fleet.ProbeHTTP, URL: "http://127.0.0.1:1"},
		{Kind: fleet.ProbeExec, Argv: []string{"/bin/true"}},
	} {
		if verdict, detail := probe.Run(ctx, p, probe.Env{}); verdict != fleet.VerdictInconclusive {
			t.Errorf("%s: got %s, %q", p.Kind, verdict, detail)
		}
	}
}
