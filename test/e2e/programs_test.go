package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// programs are the background processes of one script, by name.
type programs map[string]*program

type program struct {
	cmd  *exec.Cmd
	done chan struct{}
}

type programsKey struct{}

func running(ts *testscript.TestScript) programs {
	p, ok := ts.Value(programsKey{}).(programs)
	if !ok {
		ts.Fatalf("no programs in the script's environment")
	}
	return p
}

// stop ends a program and waits for it.
func (p programs) stop(name string, sig syscall.Signal) {
	r := p[name]
	if r == nil {
		return
	}
	_ = r.cmd.Process.Signal(sig)
	select {
	case <-r.done:
	case <-time.After(10 * time.Second):
		_ = r.cmd.Process.Kill()
		<-r.done
	}
	delete(p, name)
}

func (p programs) start(ts *testscript.TestScript, name string, args ...string) {
	path, err := lookPath(ts, args[0])
	ts.Check(err)
	log, err := os.OpenFile(ts.MkAbs(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer func() { _ = log.Close() }()
	cmd := exec.Command(path, args[1:]...) //nolint:noctx,gosec // Ended by stop.
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environ(ts)
	ts.Check(cmd.Start())
	r := &program{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		_ = cmd.Wait()
	}()
	p[name] = r
}

func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, k := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "FLEET_DIR", "RUN", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "SSH_AUTH_SOCK"} {
		env = append(env, k+"="+ts.Getenv(k))
	}
	return env
}

// fleet MACHINE... makes a fleet of linux machines, of which the first has the
// coordinator, with bundle v1 as their source. Settings go below "settings".
func makeFleet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: fleet MACHINE...")
	}
	run(ts, "fleetctl", "init", "fleet", "--fleet", "lab", "--operator", "me", "--coordinator-machine", args[0], "--address", "127.0.0.1:7443")
	var b strings.Builder
	fmt.Fprintf(&b, "fleet: lab\ncoordinator: {machine: %s, address: \"127.0.0.1:7443\"}\noperators: {me: {role: admin}}\nmachines:\n", args[0])
	for _, m := range args {
		fmt.Fprintf(&b, "  %s: {class: linux}\n", m)
	}
	b.WriteString("settings:\n  all:\n    source: {bundle: ../v1}\n    policy: {verifyDeadline: 10s, activationDeadline: 5s}\n")
	ts.Check(os.WriteFile(ts.MkAbs("fleet/fleet.yaml"), []byte(b.String()), 0o600))
	bundle(ts, false, []string{"v1", "v1"})
	bundle(ts, false, []string{"v2", "v2"})
}

func run(ts *testscript.TestScript, args ...string) string {
	out, err := command(ts, args)
	if err != nil {
		ts.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// coordinator start|stop|kill|wipe: wipe takes its store away.
func coordinatorCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: coordinator start|stop|kill|wipe")
	}
	p := running(ts)
	switch args[0] {
	case "start":
		file := ts.MkAbs("address")
		listen := "127.0.0.1:0"
		old, err := os.ReadFile(file)
		if err == nil {
			listen = strings.TrimSpace(string(old))
			ts.Check(os.Remove(file))
		}
		p.start(ts, "coordinator", "fleet-coordinator", "run", "--kit", "fleet/trust/coordinator-kit.age",
			"--kit-key", "fleet/trust/coordinator.agekey", "--state-dir", "coordinator", "--listen", listen, "--address-file", file)
		for range 200 {
			if b, err := os.ReadFile(file); err == nil {
				if text := ts.ReadFile("fleet/fleet.yaml"); old == nil {
					text = strings.ReplaceAll(text, "127.0.0.1:7443", strings.TrimSpace(string(b)))
					ts.Check(os.WriteFile(ts.MkAbs("fleet/fleet.yaml"), []byte(text), 0o600))
				}
				ts.Setenv("ADDRESS", strings.TrimSpace(string(b)))
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		ts.Fatalf("the coordinator does not listen:\n%s", ts.ReadFile("coordinator.log"))
	case "stop":
		p.stop("coordinator", syscall.SIGTERM)
	case "kill":
		p.stop("coordinator", syscall.SIGKILL)
	case "wipe":
		ts.Check(os.RemoveAll(ts.MkAbs("coordinator")))
	default:
		ts.Fatalf("coordinator: unknown verb %q", args[0])
	}
}

// agent token|start|stop|kill MACHINE...: start enrols with the join string
// that token made, the first time; flags of the agent may follow. agent clone
// MACHINE COPY starts one on a copied state directory.
func agentCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: agent token|start|stop|kill MACHINE...")
	}
	p := running(ts)
	if args[0] == "clone" {
		if len(args) != 3 {
			ts.Fatalf("usage: agent clone MACHINE COPY")
		}
		p.start(ts, args[2], append([]string{"fleet-agent", "run"}, dirs(ts, args[2])...)...)
		return
	}
	machines, flags := args[1:], []string(nil)
	if i := slices.IndexFunc(machines, func(s string) bool { return strings.HasPrefix(s, "--") }); i >= 0 {
		machines, flags = machines[:i], machines[i:]
	}
	for _, m := range machines {
		switch args[0] {
		case "token":
			cmd := exec.Command("fleetctl", "token", m) //nolint:noctx // Bounded by the test.
			path, err := lookPath(ts, "fleetctl")
			ts.Check(err)
			cmd.Path, cmd.Err, cmd.Dir, cmd.Env = path, nil, ts.MkAbs("."), environ(ts)
			out, err := cmd.Output()
			if e := (*exec.ExitError)(nil); errors.As(err, &e) {
				ts.Fatalf("fleetctl token %s: %v\n%s", m, err, e.Stderr)
			}
			ts.Check(err)
			ts.Check(os.WriteFile(ts.MkAbs(m+".join"), out, 0o600))
		case "start":
			p.start(ts, m, slices.Concat([]string{"fleet-agent", "run", "--join-file", m + ".join"}, dirs(ts, m), flags)...)
		case "stop":
			p.stop(m, syscall.SIGTERM)
		case "kill":
			p.stop(m, syscall.SIGKILL)
		default:
			ts.Fatalf("agent: unknown verb %q", args[0])
		}
	}
}

func dirs(ts *testscript.TestScript, m string) []string {
	return []string{
		"--state-dir", ts.MkAbs(filepath.Join("hosts", m)),
		"--run-dir", filepath.Join(ts.Getenv("RUN"), m),
		"--secrets-dir", ts.MkAbs(filepath.Join("secrets", m)),
	}
}
