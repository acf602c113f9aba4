package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/service"
	"github.com/cameronraysmith/fleet/pkg/service/servicetest"
)

var update = flag.Bool("update", false, "write packaging/systemd")

// machine is a host in a temporary directory, whose service manager remembers
// what it was told.
type machine struct {
	t    *testing.T
	root string
	m    *servicetest.Manager
	euid int
}

func newMachine(t *testing.T) *machine {
	return &machine{t: t, root: t.TempDir(), m: &servicetest.Manager{Dir: "/etc/systemd/system", Suffix: ".service"}}
}

func (m *machine) host() (service.Host, error) {
	return service.Host{Manager: m.m, Root: m.root, EUID: m.euid}, nil
}

func (m *machine) path(file string) string { return filepath.Join(m.root, file) }

// run runs a command line on the machine.
func (m *machine) run(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	o := &options{
		stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }, host: m.host,
		now: time.Now, clockSynced: func() bool { return true },
	}
	code = o.main(m.t.Context(), args)
	return code, out.String(), errs.String()
}

// runs is run of what must be good.
func (m *machine) runs(stdin string, args ...string) string {
	m.t.Helper()
	code, out, errs := m.run(stdin, args...)
	if code != exitOK {
		m.t.Fatalf("%v: %d, %s", args, code, errs)
	}
	return out
}

func (m *machine) unit(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(m.m.File(name)))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// The unit of packaging/systemd is what install writes without flags.
func TestPackagedUnit(t *testing.T) {
	m := newMachine(t)
	m.runs("", "install")
	servicetest.Golden(t, "../packaging/systemd/fleet-agent.service", strings.Replace(m.unit(serviceName), "copied=yes", "copied=no", 1), *update)
	servicetest.Golden(t, "../packaging/systemd/fleet-dead-man.service", m.unit(deadManService), *update)
	servicetest.Golden(t, "../packaging/systemd/fleet-secrets.service", m.unit(secretsService), *update)
}

func TestUnitIsGood(t *testing.T) {
	m := newMachine(t)
	program := servicetest.Program(t, serviceName)
	m.runs("", "install", "--program", program, "--env", `A=100% of "$HOME"`, "--coordinator", "[fd00::1]:7443")
	servicetest.Verify(t, serviceName, m.unit(serviceName))
	servicetest.Verify(t, secretsService, m.unit(secretsService))
	// Its program is one that an agent makes.
	kept := filepath.Join(t.TempDir(), "dead-man", deadManService)
	if err := errors.Join(os.Mkdir(filepath.Dir(kept), 0o700), os.Symlink(program, kept)); err != nil {
		t.Fatal(err)
	}
	servicetest.Verify(t, deadManService, strings.Replace(m.unit(deadManService), "ExecStart=/var/lib/fleet/agent/dead-man/"+deadManService, "ExecStart="+kept, 1))
}

func TestInstallFlags(t *testing.T) {
	m := newMachine(t)
	key := m.path("/key")
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want []string // lines of the unit
		not  []string
	}{
		"none": {nil, []string{
			"ExecStart=/usr/local/bin/fleet-agent run --join-file /etc/fleet/join", "StateDirectory=fleet", "RuntimeDirectory=fleet-agent",
			"RequiresMountsFor=/var/lib/fleet/agent", "X-StopOnRemoval=false", "X-RestartIfChanged=false", "KillMode=process", "StartLimitIntervalSec=0",
		}, []string{"--state-dir"}},
		"directories": {[]string{"--state-dir", "/srv/fleet", "--run-dir", "/srv/run"}, []string{
			"ExecStart=/usr/local/bin/fleet-agent run --state-dir /srv/fleet --run-dir /srv/run --join-file /etc/fleet/join", "RequiresMountsFor=/srv/fleet",
		}, []string{"StateDirectory=", "RuntimeDirectory="}},
		"another run directory": {[]string{"--run-dir", "/run/x"}, []string{"RuntimeDirectory=x"}, nil},
		"everything else": {
			[]string{
				"--coordinator", "a:1,b:2", "--coordinator", "c:3", "--env", "A=b c", "--env", "D=50%", "--observe", "--poll-interval", "1m",
				"--join-file", "/etc/j", "--age-identity", key, "--nix-max-jobs", "2", "--log-format", "json",
			},
			[]string{`ExecStart=/usr/local/bin/fleet-agent run --join-file /etc/j --age-identity ` + key +
				` --coordinator a:1 --coordinator b:2 --coordinator c:3 --env "A=b c" --env "D=50%%" --log-format json --nix-max-jobs 2 --observe=true --poll-interval 1m0s`},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m.t = t
			m.runs("", append([]string{"install"}, tt.args...)...)
			unit := m.unit(serviceName)
			lines := strings.Split(unit, "\n")
			for _, want := range tt.want {
				found := false
				for _, l := range lines {
					found = found || l == want
				}
				if !found {
					t.Errorf("no line %q in\n%s", want, unit)
				}
			}
			for _, not := range tt.not {
				for _, l := range lines {
					if !strings.HasPrefix(l, "#") && strings.Contains(l, not) {
						t.Errorf("%q has %q", l, not)
					}
				}
			}
		})
	}
}

// What install makes of flags, run must understand: the same agent.
func TestInstalledArgumentsRun(t *testing.T) {
	m := newMachine(t)
	o := &installOptions{runOptions: &runOptions{options: &options{stdout: io.Discard, stderr: io.Discard, host: m.host}}}
	c := newInstallCommand(o.options)
	in := []string{"--env", "A=b, c", "--env", `B="`, "--coordinator", "x:1,y:2", "--observe", "--freshness-interval", "3h"}
	if err := c.ParseFlags(in); err != nil {
		t.Fatal(err)
	}
	o.stateDir, o.runDir, o.joinFile = defaultStateDir, defaultRunDir, defaultJoinFile
	ran := &runOptions{options: &options{}}
	run := newRunCommand(ran.options)
	var got runOptions
	got.options = ran.options
	run.ResetFlags()
	got.runFlags(run)
	if err := run.ParseFlags(o.serviceArgs(c.Flags())); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"A=b, c", `B="`}, got.env); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"x:1", "y:2"}, got.coordinator); d != "" || !got.observe || got.freshness.Interval.Hours() != 3 || got.joinFile != defaultJoinFile {
		t.Errorf("%s %+v", d, got)
	}
}

func TestInstallMistakes(t *testing.T) {
	m := newMachine(t)
	for name, tt := range map[string]struct {
		args  []string
		stdin string
		code  int
		text  string
	}{
		"an argument":            {[]string{"install", "fleet-join-v1"}, "", exitUsage, "unknown command"},
		"another name":           {[]string{"install", "--program", "/bin/sh"}, "", exitError, "ends with /fleet-agent"},
		"a path with a space":    {[]string{"install", "--state-dir", "/srv/my fleet"}, "", exitUsage, "--state-dir"},
		"a run dir with percent": {[]string{"install", "--run-dir", "/run/%n"}, "", exitUsage, "--run-dir"},
		"an env with a newline":  {[]string{"install", "--env", "A=b\nc"}, "", exitUsage, "control characters"},
		"an env without a value": {[]string{"install", "--env", "A"}, "", exitUsage, "NAME=VALUE"},
		"an address":             {[]string{"install", "--coordinator", "a"}, "", exitUsage, "host:port"},
		"no identity":            {[]string{"install", "--age-identity", "/nowhere"}, "", exitUsage, "--age-identity"},
		"a key without its repo": {[]string{"install", "--freshness-key", "/dev/null"}, "", exitUsage, "freshness"},
		"a log format":           {[]string{"install", "--log-format", "xml"}, "", exitUsage, "text or json"},
		"no join string":         {[]string{"install", "--join-file", "-"}, "", exitError, "no join string"},
		"no such join string":    {[]string{"install", "--join-file", "-"}, "hello\n", exitError, "join string on standard input"},
		"start":                  {[]string{"start"}, "", exitError, "not installed"},
		"uninstall":              {[]string{"uninstall"}, "", exitError, "not installed"},
		"stop it":                {[]string{"stop", "it"}, "", exitUsage, "unknown command"},
	} {
		code, _, stderr := m.run(tt.stdin, tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.text) || !strings.Contains(stderr, "hint:") && tt.code == exitUsage {
			t.Errorf("%s: %d, %s", name, code, stderr)
		}
	}
	m.euid = 1000
	for _, args := range [][]string{{"install"}, {"start"}, {"stop"}, {"restart"}} {
		if code, _, stderr := m.run("", args...); code != exitError || !strings.Contains(stderr, "only root") || !strings.Contains(stderr, "sudo") {
			t.Errorf("%v: %d, %s", args, code, stderr)
		}
	}
	m.euid = 0
	if err := os.WriteFile(m.path("/etc-NIXOS"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(m.path("/etc"), 0o755), os.Rename(m.path("/etc-NIXOS"), m.path("/etc/NIXOS"))); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := m.run("", "install"); code != exitRefused || !strings.Contains(stderr, "services.fleet.agent.enable") {
		t.Errorf("on NixOS: %d, %s", code, stderr)
	}
	if len(m.m.Told) > 0 {
		t.Errorf("told the manager %v", m.m.Told)
	}
}

func TestInstallKeepsJoinString(t *testing.T) {
	m := newMachine(t)
	join := agenttest.FixedFleet(t).Join("127.0.0.1:1").String()
	out := m.runs(join+"\n", "install", "--join-file", "-")
	if strings.Contains(out, "fleetctl token") || strings.Contains(m.unit(serviceName), join) {
		t.Errorf("%s\n%s", out, m.unit(serviceName))
	}
	file := m.path(defaultJoinFile)
	b, err := os.ReadFile(file)
	fi, serr := os.Stat(file)
	if err := errors.Join(err, serr); err != nil || string(b) != join+"\n" || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%q, %v, %v", b, fi, err)
	}
	// Without one it says what to do.
	if out := newMachine(t).runs("", "install"); !strings.Contains(out, "fleetctl token") {
		t.Error(out)
	}
	var r service.Report
	if err := json.Unmarshal([]byte(m.runs("", "install", "-o", "json")), &r); err != nil || r.Service != serviceName || len(r.Did) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestServiceCommands(t *testing.T) {
	m := newMachine(t)
	m.runs("", "install", "--no-start")
	m.m.Told = nil
	for _, verb := range []string{"start", "restart", "stop"} {
		if out := m.runs("", verb); !strings.Contains(out, serviceName) {
			t.Errorf("%s: %s", verb, out)
		}
	}
	if d := cmp.Diff([]string{"start", "restart", "stop"}, m.m.Told); d != "" {
		t.Error(d)
	}
}

// state makes a journal in the state directory of the machine.
func (m *machine) state(p journal.Record) {
	m.t.Helper()
	dir := m.path(defaultStateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.t.Fatal(err)
	}
	j, err := journal.Open(dir, journal.Options{})
	if err == nil {
		err = errors.Join(j.Append(p), j.Close())
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func TestUninstall(t *testing.T) {
	m := newMachine(t)
	m.runs("", "install")
	m.state(journal.Record{Kind: journal.KindMode, Mode: fleet.ModeManage})
	m.unit(deadManService)
	out := m.runs("", "uninstall")
	if _, err := os.Lstat(m.path(m.m.File(deadManService))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unit of the dead-man switches stays: %v", err)
	}
	if !strings.Contains(out, "kept "+defaultStateDir) || !strings.Contains(out, "rm -r "+defaultStateDir) {
		t.Error(out)
	}
	if _, err := journal.Read(m.path(defaultStateDir)); err != nil {
		t.Error(err)
	}

	// Purging takes a person.
	m.runs("", "install")
	if code, _, stderr := m.run("not enrolled\n", "uninstall", "--purge"); code != exitError || !strings.Contains(stderr, "terminal") {
		t.Errorf("%d, %s", code, stderr)
	}
	h, err := m.host()
	if err != nil {
		t.Fatal(err)
	}
	purge := func(answer string) (string, error) {
		var out bytes.Buffer
		u := &uninstallOptions{options: &options{
			stdin: strings.NewReader(answer), stdout: &out, output: "table", stateDir: defaultStateDir,
			host: m.host, getenv: func(string) string { return "" },
		}, purge: true, person: func() bool { return true }}
		return out.String(), runUninstall(context.Background(), u)
	}
	for _, answer := range []string{"yes\n", "", "not enrolled"} {
		if _, err := purge(answer); err == nil {
			t.Errorf("%q purges", answer)
		}
	}
	if _, err := h.Record(serviceName); err != nil {
		t.Errorf("something was removed: %v", err)
	}
	if _, err := purge("not enrolled\n"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(m.path(defaultStateDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state is there: %v", err)
	}
	// A directory that has no journal is not an agent's.
	m.runs("", "install")
	if err := os.MkdirAll(m.path(defaultStateDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := purge("not enrolled\n"); err == nil || !strings.Contains(err.Error(), "no journal") {
		t.Error(err)
	}
}

// The status of an agent that does not answer says what the manager knows.
func TestStatusAsksManager(t *testing.T) {
	m := newMachine(t)
	for name, tt := range map[string]struct {
		state        service.State
		text, advice string
	}{
		"not installed": {service.State{}, "not installed", "fleet-agent install"},
		"stopped":       {service.State{Installed: true}, "is stopped", "fleet-agent start"},
		"failed":        {service.State{Installed: true, Failed: true, Why: "it ended with exit code 1"}, "failed: it ended with exit code 1", "journalctl"},
		"failing":       {service.State{Installed: true, Failed: true, Starting: true, Why: "it ended with exit code 1"}, "again and again", "journalctl"},
	} {
		m.m.Is = tt.state
		code, _, stderr := m.run("", "status", "--state-dir", m.path("/nothing"))
		if code != exitAbsent || !strings.Contains(stderr, tt.text) || !strings.Contains(stderr, tt.advice) {
			t.Errorf("%s: %d, %s", name, code, stderr)
		}
	}
	// The manager's agent is not one with a run directory of its own.
	if _, _, stderr := m.run("", "status", "--state-dir", m.path("/nothing"), "--run-dir", m.path("/run")); strings.Contains(stderr, "service") {
		t.Error(stderr)
	}
	m.m.Is = service.State{Installed: true}
	m.state(journal.Record{Kind: journal.KindMode, Mode: fleet.ModeManage})
	if out := m.runs("", "status", "--state-dir", m.path(defaultStateDir)); !strings.Contains(out, offlineNote+"; the service fleet-agent is stopped: fleet-agent start") {
		t.Error(out)
	}
}

// The property list is well-formed, of nothing that plutil would refuse, and has
// the keys that launchd is to see. There is no plutil but on a Mac: what it would
// check of the grammar of property lists is checked here.
func TestPropertyList(t *testing.T) {
	m := newMachine(t)
	m.m.Dir, m.m.Suffix = "/Library/LaunchDaemons", ".plist"
	m.runs("", "install", "--env", `A=<&>"'`)
	list := servicetest.PropertyList(t, m.unit(serviceName))
	args, _ := list["ProgramArguments"].([]any)
	if d := cmp.Diff([]any{"/usr/local/libexec/fleet/fleet-agent", "run", "--join-file", "/etc/fleet/join", "--env", `A=<&>"'`}, args); d != "" {
		t.Error(d)
	}
	for key, want := range map[string]any{
		"Label": "io.github.cameronraysmith.fleet-agent", "RunAtLoad": true, "KeepAlive": true, "ThrottleInterval": uint64(10),
		"AbandonProcessGroup": true, "StandardOutPath": "/var/log/fleet-agent.log", "StandardErrorPath": "/var/log/fleet-agent.log",
	} {
		if list[key] != want {
			t.Errorf("%s is %v, want %v", key, list[key], want)
		}
	}
	// What root runs by name is in no directory of a user, as Homebrew's are.
	env, _ := list["EnvironmentVariables"].(map[string]any)
	path, _ := env["PATH"].(string)
	for _, dir := range filepath.SplitList(path) {
		if !slices.Contains([]string{"/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"}, dir) {
			t.Errorf("PATH has %q", dir)
		}
	}
	for _, name := range []string{serviceName, deadManService} {
		if !strings.HasPrefix(m.unit(name), xml.Header) {
			t.Errorf("no header: %.60s", m.unit(name))
		}
	}
	list = servicetest.PropertyList(t, m.unit(deadManService))
	if list["Label"] != "io.github.cameronraysmith.fleet-dead-man" || list["RunAtLoad"] != true || list["StandardErrorPath"] != "/var/log/fleet-dead-man.log" {
		t.Errorf("%v", list)
	}
	if d := cmp.Diff(map[string]any{"SuccessfulExit": false}, list["KeepAlive"]); d != "" {
		t.Error(d)
	}
	m.runs("", "uninstall")
	for _, name := range []string{serviceName, deadManService} {
		if _, err := os.Lstat(m.path(m.m.File(name))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s stays: %v", name, err)
		}
	}
}

// TestDeadManDaemon: what launchd runs at boot runs the program that was kept, with the
// directory, and ends well where none was.
func TestDeadManDaemon(t *testing.T) {
	m := newMachine(t)
	m.m.Dir, m.m.Suffix = "/Library/LaunchDaemons", ".plist"
	m.runs("", "install")
	var argv []string
	for _, a := range servicetest.PropertyList(t, m.unit(deadManService))["ProgramArguments"].([]any) {
		argv = append(argv, strings.Replace(a.(string), defaultStateDir, m.path("/state"), 1))
	}
	run := func() string {
		out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput() //nolint:gosec // The test's own.
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := run(); out != "" {
		t.Errorf("nothing was kept, and it says %s", out)
	}
	kept := m.path("/state/dead-man/fleet-dead-man")
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, []byte("#!/bin/sh\necho \"$@\"\n"), 0o700); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	if out := run(); out != "dead-man-switches "+filepath.Dir(kept)+"\n" {
		t.Errorf("it ran with %q", out)
	}
}
