//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Names of the fleet that is crashed.
const (
	fleetID  = "lab"
	machine  = "box1"
	other    = "box2" // in the inventory, and never enrolled
	operator = "me"
)

// deadline is how long a stage may take to converge, kills included.
const deadline = 60 * time.Second

// world is a fleet of one machine with its coordinator and its operator, in a
// directory of its own, at always the same place: what is on disk names paths,
// so that a copy of it is good only there.
type world struct {
	programs string // directory of the programs
	top      string // of this world
	dir      string // what is copied and put back
	run      string // of the agent's socket, whose path must be short
	address  string
	trigger  string

	// agentArgs are more arguments of the agent, of a stage.
	agentArgs []string
	// home of the operator who acts, below dir.
	home string
	// power supply; nil where programs are killed and the machine lives on.
	power *power

	coordinator, agent *service
	watch              *watcher

	// good is the number of the host's last good generation, as it says.
	good string
	// What operators were told, and so must hold.
	acked acked
	// How many lines the activations' log had when the stage began, and how many
	// activations were on record.
	before, intendedBefore, eventsBefore int
}

// acked is what was acknowledged, in this stage and before.
type acked struct {
	// Release and Number of the newest publish that ended with 0.
	Release string `json:"release"`
	Number  string `json:"number"`
	// Good is the newest number that ran well before.
	Good string `json:"good"`
	// Tokens that were printed.
	Tokens int `json:"tokens"`
	// Told are the kinds of events that the stage's commands vouched for when they
	// ended with 0.
	Told []string `json:"-"`
}

func newWorld(programs, top string) (*world, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	run, err := os.MkdirTemp("", "fc")
	if err = errors.Join(err, l.Close()); err != nil {
		return nil, err
	}
	w := &world{programs: programs, top: top, dir: filepath.Join(top, "w"), run: run, address: address, home: "config"}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	begin := func(cmd *exec.Cmd) error { return w.power.begin(cmd) }
	w.coordinator = &service{name: "the coordinator", begin: begin, make: func() *exec.Cmd {
		return w.command("coordinator.log", "fleet-coordinator", "run", "--kit", "fleet/trust/coordinator-kit.age", "--kit-key", "fleet/trust/coordinator.agekey",
			"--state-dir", "coordinator", "--listen", w.address, "--address-file", "address")
	}}
	w.agent = &service{name: "the agent", begin: begin, make: func() *exec.Cmd {
		return w.command("agent.log", "fleet-agent", slices.Concat([]string{
			"run", "--join-file", "join", "--state-dir", w.path("host"), "--run-dir", w.run, "--secrets-dir", w.path("secrets"), "--poll-interval", "2s",
		}, w.agentArgs)...)
	}}
	return w, errors.Join(w.bundles(), os.WriteFile(w.activationsLog(), nil, 0o600))
}

func (w *world) path(elem ...string) string {
	return filepath.Join(append([]string{w.dir}, elem...)...)
}
func (w *world) crashLog() string { return filepath.Join(w.top, "hits") }

// crashes is what the programs are told about where to crash.
func (w *world) crashes() string {
	if w.power != nil && w.trigger != "" {
		return w.power.triggers(w.trigger)
	}
	return w.trigger
}

// command makes a program of the fleet; its output goes to a log beside the world.
func (w *world) command(log, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(w.programs, name), args...) //nolint:noctx // Ended by its service, or by its caller's context.
	cmd.Dir = w.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "XDG_CONFIG_HOME=" + w.path(w.home), "FLEET_DIR=" + w.path("fleet"),
		"FLEET_CRASHPOINT=" + w.crashes(), "FLEET_CRASHPOINT_LOG=" + w.crashLog(),
	}
	if log != "" {
		f, err := os.OpenFile(filepath.Join(w.top, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			cmd.Stdout, cmd.Stderr = f, f
		}
	}
	if w.power != nil {
		w.power.booted(cmd)
	}
	return cmd
}

// errGaveUp wraps the last error of a command that never succeeded.
var errGaveUp = errors.New("gave up")

// do runs a command of an operator until it succeeds: again at once when it was
// killed, again after a moment when it failed, as when the coordinator was. An
// answer that done accepts counts as success.
func (w *world) do(ctx context.Context, done func(output string) bool, name string, args ...string) ([]byte, error) {
	// Many fleets that ask again without a rest leave a slow machine no time for what they wait for.
	for rest := 50 * time.Millisecond; ; rest = min(2*rest, time.Second) {
		cmd := w.command("", name, args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := w.power.begin(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		switch {
		case err == nil, done != nil && done(stderr.String()):
			return stdout.Bytes(), nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: %s %s: %w\n%s", errGaveUp, name, strings.Join(args, " "), err, stderr.String())
		case wasKilled(err):
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
	}
}

func (w *world) fleetctl(ctx context.Context, args ...string) ([]byte, error) {
	return w.do(ctx, nil, "fleetctl", append([]string{"--timeout", "5s"}, args...)...)
}

// local runs a command of fleet-agent against the running agent.
func (w *world) local(ctx context.Context, done func(string) bool, args ...string) error {
	_, err := w.do(ctx, done, "fleet-agent", append(args, "--state-dir", w.path("host"), "--run-dir", w.run)...)
	return err
}

// publish publishes, and remembers what was acknowledged.
func (w *world) publish(ctx context.Context) error {
	out, err := w.fleetctl(ctx, "publish", machine, "-o", "json")
	if err != nil {
		return err
	}
	var res struct {
		Release     string
		Generations []struct{ Number string }
	}
	if err := json.Unmarshal(out, &res); err != nil || len(res.Generations) != 1 {
		return fmt.Errorf("publish printed %q: %w", out, err)
	}
	w.acked.Release, w.acked.Number = res.Release, res.Generations[0].Number
	return nil
}

// stop ends all programs.
func (w *world) stop() error {
	if w.watch != nil {
		w.watch.close()
		w.watch = nil
	}
	err := errors.Join(w.agent.stop(), w.coordinator.stop())
	w.agent.odd, w.coordinator.odd = nil, nil
	endBelow(w.dir)
	return err
}

func (w *world) snapshot(stage int) string {
	return filepath.Join(w.top, fmt.Sprintf("stage%02d", stage))
}

// save copies the world as it is before a stage.
func (w *world) save(stage int) error {
	b, err := json.Marshal(w.acked)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.path("acked.json"), b, 0o600); err != nil {
		return err
	}
	return errors.Join(run("cp", "-a", w.dir, w.snapshot(stage)), run("cp", "-a", w.activationsLog(), w.snapshot(stage)+".activations"))
}

// restore puts the world back to where a stage begins.
func (w *world) restore(stage int) error {
	for _, f := range []string{w.crashLog(), filepath.Join(w.top, "agent.log"), filepath.Join(w.top, "coordinator.log")} {
		if err := os.RemoveAll(f); err != nil {
			return err
		}
	}
	if err := emptyDir(w.dir); err != nil {
		return err
	}
	err := errors.Join(run("cp", "-a", w.snapshot(stage)+"/.", w.dir), run("cp", "-a", w.snapshot(stage)+".activations", w.activationsLog()), w.power.sync())
	if err != nil {
		return err
	}
	b, err := os.ReadFile(w.path("acked.json"))
	if err != nil {
		return err
	}
	w.acked = acked{}
	return json.Unmarshal(b, &w.acked)
}

func (w *world) close() {
	_ = w.stop()
	if w.power != nil {
		w.power.unplug()
	}
	_ = os.RemoveAll(w.run)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil { //nolint:noctx // Short.
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
