// Package e2e runs scripts over the real programs: fleetctl, fleet-agent and
// fleet-coordinator as processes with real sockets and a real file system.
package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cameronraysmith/fleet/agent"
	"github.com/cameronraysmith/fleet/coordinator"
	"github.com/cameronraysmith/fleet/fleetctl"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"fleetctl":          func() { os.Exit(fleetctl.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"fleet-agent":       func() { os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"fleet-coordinator": func() { os.Exit(coordinator.Main(os.Args[1:], os.Stdout, os.Stderr)) },
		// The copy that an agent keeps for its dead-man switches.
		"fleet-dead-man":   func() { os.Exit(agent.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"age-plugin-token": func() { os.Exit(token()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			// Short, because a unix socket's path has at most 107 bytes.
			run, err := os.MkdirTemp("", "fleet-e2e-")
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(run) })
			e.Setenv("RUN", run)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, "config"))
			e.Setenv("FLEET_DIR", filepath.Join(e.WorkDir, "fleet"))
			p := programs{}
			e.Values[programsKey{}] = p
			e.Defer(func() {
				for name := range p {
					p.stop(name, syscall.SIGTERM)
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"eventually":   eventually,
			"subst":        subst,
			"seal":         seal,
			"unseal":       unseal,
			"bundle":       bundle,
			"fleet":        makeFleet,
			"storm":        storm,
			"coordinator":  coordinatorCmd,
			"agent":        agentCmd,
			"example":      example,
			"certificate":  certificate,
			"ssh-agent":    sshAgent,
			"security-key": securityKey,
			"real-sops":    realSops,
		},
	})
}

// realSops has SOPS name the real sops.
func realSops(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: real-sops")
	}
	path, err := sopstest.Program()
	ts.Check(err)
	ts.Setenv("SOPS", path)
	ts.Setenv("SOPS_DISABLE_VERSION_CHECK", "1")
}

// eventually SECONDS REGEXP COMMAND... runs a command until its output matches
// (or, negated, no longer does), at most so many seconds.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: eventually SECONDS REGEXP COMMAND...")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	deadline := time.Now().Add(time.Duration(seconds) * time.Second)
	for {
		out, err := command(ts, args[2:])
		if re.Match(out) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not in %d s: %s\n%s\n%v", seconds, args[1], out, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func command(ts *testscript.TestScript, args []string) ([]byte, error) {
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx,gosec // Bounded by the test; the script's own words.
	path, err := lookPath(ts, args[0])
	if err != nil {
		return nil, err
	}
	cmd.Path, cmd.Err = path, nil
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = environ(ts)
	return cmd.CombinedOutput()
}

func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil && fi.Mode()&0o111 != 0 {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%s: not on the script's PATH", name)
}

// subst FILE OLD NEW replaces text in a file.
func subst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: subst FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
}

// seal FILE TEXT encrypts text to the operator.
func seal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: seal FILE TEXT")
	}
	keys, err := os.ReadFile(filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "fleet", "keys.txt"))
	ts.Check(err)
	ids, err := age.ParseIdentities(bytes.NewReader(keys))
	ts.Check(err)
	id, ok := ids[0].(*age.X25519Identity)
	if !ok {
		ts.Fatalf("the operator's key is no X25519 key")
	}
	var buf bytes.Buffer
	w, err := age.Encrypt(&buf, id.Recipient())
	ts.Check(err)
	_, err = w.Write([]byte(args[1]))
	ts.Check(err)
	ts.Check(w.Close())
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o700))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), buf.Bytes(), 0o600))
}

// bundle DIR VERSION [ACTIVATE-LINE] makes a bundle whose activation writes
// its version to $FLEET_STATE/version, and whose check compares.
func bundle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: bundle DIR VERSION [LINE]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	extra := ""
	if len(args) > 2 {
		extra = args[2] + "\n"
	}
	for name, text := range map[string]string{
		"activate": "#!/bin/sh\nset -eu\necho " + args[1] + " >> \"$FLEET_STATE/activations\"\n" + extra +
			"cp \"$FLEET_BUNDLE/version\" \"$FLEET_STATE/version\"\n",
		"check":   "#!/bin/sh\nexec cmp \"$FLEET_BUNDLE/version\" \"$FLEET_STATE/version\"\n",
		"version": args[1] + "\n",
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700)) //nolint:gosec // Executables.
	}
}
