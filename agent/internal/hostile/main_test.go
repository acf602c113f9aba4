package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent"
	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/pace"
)

// storeDriver is the name of a driver of store paths. It is that of bundles here:
// nothing may come so far that it is asked.
const storeDriver = "nix"

// What the test binary is when it is started with one of these as its first
// argument.
const (
	beRunner = "run-action"
	beAgent  = "be-agent"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case beRunner:
			os.Exit(execute.RunAction(os.Args[2]))
		case beAgent:
			if err := runAgent(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	// Rows wait for processes and deadlines more than they work.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// setup is what an agent's process is told.
type setup struct {
	Dir  string
	Join string
	// Clock is how far the host's clock is ahead.
	Clock time.Duration
	// Unsynced says that the host does not know whether its clock is right.
	Unsynced bool
	// Pace of blobs.
	Window time.Duration
	Exe    string
}

func (s setup) state() string { return filepath.Join(s.Dir, "state") }
func (s setup) run() string   { return filepath.Join(s.Dir, "run") }

// runAgent is an agent until its standard input ends. For each line there it
// writes one with the largest size that its heap has had, in bytes.
func runAgent(encoded string) error {
	var s setup
	if err := json.Unmarshal([]byte(encoded), &s); err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		StateDir: s.state(), RunDir: s.run(), SecretsDir: filepath.Join(s.Dir, "secrets"),
		Join: s.Join, Runner: []string{s.Exe, beRunner}, Version: "test",
		Now: func() time.Time { return time.Now().Add(s.Clock) }, ClockSynced: func() bool { return !s.Unsynced },
		Activity: agent.TuneRuntime,
		// What waits for minutes on a real host.
		Retry:    agent.Retry{First: 20 * time.Millisecond, Max: 200 * time.Millisecond, Slow: 200 * time.Millisecond},
		BlobPace: pace.Limit{Bytes: 1 << 10, Window: s.Window},
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OpenDrivers: func() (map[string]driver.Driver, func() error, error) {
			d, err := bundledriver.New(bundledriver.Config{Root: filepath.Join(s.Dir, "bundle")})
			if err != nil {
				return nil, nil, err
			}
			connected, stop, err := driver.InProcess(d)
			return map[string]driver.Driver{bundledriver.Name: connected, storeDriver: connected}, stop, err
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if _, err := fmt.Fprintln(os.Stdout, m.HeapSys); err != nil {
				return
			}
		}
	}()
	return a.Run(ctx)
}
