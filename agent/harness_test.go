package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/plugintest"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// runAction as the first argument makes the test binary the runner.
const runAction = "run-action"

// deadManSwitch as the first argument makes it a dead-man switch.
const deadManSwitch = "dead-man-switch"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == runAction {
		liftLimit()
		os.Exit(execute.RunAction(os.Args[2]))
	}
	if len(os.Args) == 3 && os.Args[1] == deadManSwitch {
		os.Exit(deadman.Main(os.Args[2], []string{os.Args[0], runAction}))
	}
	if len(os.Args) > 2 && os.Args[1] == cli {
		os.Exit(Main(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	if plugintest.IsPlugin() {
		plugintest.Main(os.Args[0])
		return
	}
	goleak.VerifyTestMain(m)
}

// liftLimit lets an activation write what it likes, where a test limits the size
// of the agent's files: what fails is to be the agent's own.
func liftLimit() {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &limit)
	}
}

// host is a machine with an agent that a test starts, stops and crashes.
type host struct {
	t      *testing.T
	fleet  *agenttest.Fleet
	coord  *agenttest.Coordinator
	config Config
	web    *httptest.Server
	// wrap changes the bundle driver; nil for not.
	wrap func(*bundledriver.Driver) driver.Driver

	agent  *Agent
	cancel context.CancelFunc
	ended  chan error
}

// newHost makes a host that is not enrolled, and its fleet and coordinator; its
// test then runs beside others.
func newHost(t *testing.T) *host {
	t.Helper()
	t.Parallel()
	return newHostBeside(t)
}

// newHostBeside is newHost for a second host in one test.
func newHostBeside(t *testing.T) *host {
	t.Helper()
	f := agenttest.NewFleet(t)
	c := agenttest.NewCoordinator(f)
	dir := shortTempDir(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, fleet: f, coord: c}
	// What the service of a bundle would answer.
	h.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b, err := os.ReadFile(h.serving())
		if err != nil {
			http.Error(w, "nothing", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(b)
	}))
	t.Cleanup(h.web.Close)
	h.config = Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		SecretsDir: filepath.Join(dir, "secrets"), Join: f.Join(c.Address).String(),
		Runner: []string{exe, runAction}, DeadMan: DeadMan{Command: []string{exe, deadManSwitch}}, Version: "test",
		Retry: Retry{First: 20 * time.Millisecond, Max: 200 * time.Millisecond, Slow: 200 * time.Millisecond},
		Log:   slog.New(slog.NewTextHandler(&testLog{t: t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	t.Cleanup(h.crash)
	return h
}

// testLog passes lines on until the test is over.
type testLog struct {
	mu sync.Mutex
	t  *testing.T
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("%s", p[:max(0, len(p)-1)])
	return len(p), nil
}

// testBuffer keeps what is logged.
type testBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *testBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

// text is all of it.
func (b *testBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// count counts the lines with a text.
func (b *testBuffer) count(text string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range bytes.Lines(b.all.Bytes()) {
		if bytes.Contains(l, []byte(text)) {
			n++
		}
	}
	return n
}

// shortTempDir keeps the control socket's path within its limit.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// open makes the agent without running it.
func (h *host) open() (*Agent, error) {
	c := h.config
	c.OpenDrivers = func() (map[string]driver.Driver, func() error, error) {
		d, err := bundledriver.New(bundledriver.Config{Root: filepath.Join(h.config.StateDir, "bundle")})
		if err != nil {
			return nil, nil, err
		}
		var inner driver.Driver = d
		if h.wrap != nil {
			inner = h.wrap(d)
		}
		connected, stop, err := driver.InProcess(inner)
		return map[string]driver.Driver{bundledriver.Name: connected}, stop, err
	}
	return New(c)
}

// start runs an agent on the host's state directory.
func (h *host) start() {
	h.t.Helper()
	a, err := h.open()
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.agent, h.cancel, h.ended = a, cancel, make(chan error, 1)
	go func() { h.ended <- a.Run(ctx) }()
}

// crash ends the agent; runs in flight go on, as after a kill.
func (h *host) crash() {
	if h.cancel == nil {
		return
	}
	h.cancel()
	if err := <-h.ended; err != nil {
		h.t.Errorf("agent ended with: %v", err)
	}
	h.cancel = nil
}

func (h *host) serving() string {
	return filepath.Join(h.config.StateDir, "bundle", "state", "system", "serving")
}

// expectServing checks what the host's service answers.
func (h *host) expectServing(want string) {
	h.t.Helper()
	resp, err := http.Get(h.web.URL) //nolint:noctx // A test's own server.
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	if got := string(b); got != want {
		h.t.Errorf("the service answers %q, want %q", got, want)
	}
}

// service is a bundle whose activate runs script after it put the version in
// place.
func (h *host) service(version, script string) (fleet.Source, []byte) {
	return h.fleet.Bundle(serviceFiles(version, script))
}

func serviceFiles(version, script string) map[string]string {
	return map[string]string{
		"activate":   fmt.Sprintf("#!/bin/sh\nset -e\nprintf %%s '%s' > \"$FLEET_STATE/serving\"\n%s\n", version, script),
		"deactivate": "#!/bin/sh\nrm -f \"$FLEET_STATE/serving\"\n",
		"version":    version,
	}
}

// generation is number seq, serving version, whose probe wants that version.
func (h *host) generation(seq uint64, version, script string) (g fleet.Generation, blob []byte) {
	src, blob := h.service(version, script)
	g = h.fleet.Generation(seq, src)
	g.Probes = []fleet.Probe{{
		Name: "web", Kind: fleet.ProbeHTTP, URL: h.web.URL, Contains: version,
		Interval: fleet.Duration(20 * time.Millisecond),
	}}
	return g, blob
}

// publish publishes a generation as generation makes it.
func (h *host) publish(seq uint64, version, script string, change ...func(*fleet.Generation)) fleet.Ref {
	g, blob := h.generation(seq, version, script)
	for _, c := range change {
		c(&g)
	}
	env, ref := h.fleet.Seal(g)
	h.coord.Publish(env, nil, blob)
	return ref
}

// confirmed publishes a good generation and waits for it.
func (h *host) confirmed(seq uint64, version string) fleet.Ref {
	h.t.Helper()
	ref := h.publish(seq, version, "")
	h.coord.WaitState(fleet.StateConfirmed, ref)
	h.expectServing(version)
	return ref
}

// socket is a client of the agent's control socket.
func (h *host) socket() *control.Client {
	h.t.Helper()
	c, err := control.Dial(h.config.RunDir)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// client is socket, once an enrolled agent answers.
func (h *host) client() *control.Client {
	h.t.Helper()
	c := h.socket()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		st, err := c.Status(h.t.Context())
		if err == nil && st.Machine != "" {
			return c
		}
	}
	h.t.Fatal("the control socket does not answer")
	return nil
}

func verifyIn(d time.Duration) func(*fleet.Generation) {
	return func(g *fleet.Generation) { g.Policy.VerifyDeadline = fleet.Duration(d) }
}
