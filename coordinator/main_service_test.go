package coordinator

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/buildinfo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
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

// newMachine has a kit and its key where install looks for them.
func newMachine(t *testing.T) *machine {
	m := &machine{t: t, root: t.TempDir(), m: &servicetest.Manager{Dir: "/etc/systemd/system", Suffix: ".service"}}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	k := kit.Kit{
		Format: kit.Format, Fleet: "first", Name: "cinnabar", CACert: []byte("cert"), CAKey: []byte("key"), Cert: []byte("leaf"), Key: []byte("own"),
		RootPin: fleet.DigestOf([]byte("root")), Roots: [][]byte{[]byte("root")},
	}
	sealed, err := k.Seal(id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	m.put(defaultKit, string(sealed))
	m.put(defaultKitKey, id.String()+"\n")
	return m
}

func (m *machine) path(file string) string { return filepath.Join(m.root, file) }

func (m *machine) put(file, text string) {
	m.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(m.path(file)), 0o755), os.WriteFile(m.path(file), []byte(text), 0o600)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	s := system{
		host:       func() (service.Host, error) { return service.Host{Manager: m.m, Root: m.root, EUID: m.euid}, nil },
		executable: os.Executable,
	}
	code = s.main(m.t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func (m *machine) runs(args ...string) string {
	m.t.Helper()
	code, out, errs := m.run(args...)
	if code != 0 {
		m.t.Fatalf("%v: %d, %s", args, code, errs)
	}
	return out
}

func (m *machine) unit() string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(m.m.File(serviceName)))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// The unit of packaging/systemd is what install writes without flags.
func TestPackagedUnit(t *testing.T) {
	m := newMachine(t)
	if out := m.runs("install"); !strings.Contains(out, "installed") || !strings.Contains(out, "fleetctl status") {
		t.Error(out)
	}
	servicetest.Golden(t, "../packaging/systemd/fleet-coordinator.service", strings.Replace(m.unit(), "copied=yes", "copied=no", 1), *update)
}

// exposed is the most that "systemd-analyze security" may say of the coordinator,
// in tenths.
const exposed = 20

var exposure = regexp.MustCompile(`Overall exposure level for \S+: ([0-9]+)\.([0-9])`)

func TestUnitIsGood(t *testing.T) {
	for name, args := range map[string][]string{"default": nil, "a port of root's": {"--listen", "0.0.0.0:443"}} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.runs(append([]string{"install", "--program", servicetest.Program(t, serviceName)}, args...)...)
			servicetest.Verify(t, serviceName, m.unit())
			file := filepath.Join(t.TempDir(), serviceName+".service")
			if err := os.WriteFile(file, []byte(m.unit()), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err, ok := servicetest.Analyze(t, "security", "--offline=true", "--threshold="+strconv.Itoa(exposed), "--no-pager", file)
			if !ok {
				return
			}
			f := exposure.FindStringSubmatch(out)
			if err != nil || f == nil {
				t.Fatalf("%v\n%s", err, out)
			}
			whole, _ := strconv.Atoi(f[1])
			tenths, _ := strconv.Atoi(f[2])
			if got := 10*whole + tenths; got == 0 || got > exposed {
				t.Errorf("exposure %s.%s, want at most 2.0", f[1], f[2])
			}
		})
	}
}

func TestInstallFlags(t *testing.T) {
	m := newMachine(t)
	for _, tt := range []struct {
		args      []string
		has, lack []string
	}{
		{
			nil,
			[]string{
				"ExecStart=/usr/local/bin/fleet-coordinator run --kit ${CREDENTIALS_DIRECTORY}/kit --kit-key ${CREDENTIALS_DIRECTORY}/kit-key --listen [::]:7443 --state-dir /var/lib/fleet-coordinator",
				"StateDirectory=fleet-coordinator", "PrivateUsers=yes", "CapabilityBoundingSet=",
				"LoadCredential=kit:/etc/fleet/coordinator-kit.age", "X-StopOnRemoval=false", "DynamicUser=yes",
			},
			[]string{"CAP_NET"},
		},
		{
			[]string{"--listen", ":443", "--state-dir", "/var/lib/a/b", "--max-blob-bytes", "7", "--log-format", "json"},
			[]string{
				"ExecStart=/usr/local/bin/fleet-coordinator run --kit ${CREDENTIALS_DIRECTORY}/kit --kit-key ${CREDENTIALS_DIRECTORY}/kit-key --listen :443 --state-dir /var/lib/a/b --log-format json --max-blob-bytes 7",
				"AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "StateDirectory=a/b",
			},
			[]string{"PrivateUsers"},
		},
	} {
		m.runs(append([]string{"install"}, tt.args...)...)
		unit := "\n" + m.unit()
		for _, line := range tt.has {
			if !strings.Contains(unit, "\n"+line+"\n") {
				t.Errorf("%v: no line %q in\n%s", tt.args, line, unit)
			}
		}
		for _, text := range tt.lack {
			if strings.Contains(unit, "\n"+text) || strings.Contains(unit, "="+text) {
				t.Errorf("%v: %q in\n%s", tt.args, text, unit)
			}
		}
	}
}

func TestServiceMistakes(t *testing.T) {
	m := newMachine(t)
	for name, tt := range map[string]struct {
		args []string
		code int
		text string
	}{
		"an argument":         {[]string{"install", "x"}, 2, "unknown command"},
		"no host":             {[]string{"install", "--listen", "7443"}, 2, "host:port"},
		"a port of chance":    {[]string{"install", "--listen", ":0"}, 2, "stays the same"},
		"a port by name":      {[]string{"install", "--listen", ":https"}, 2, "stays the same"},
		"another directory":   {[]string{"install", "--state-dir", "/srv/fleet"}, 2, "below /var/lib/"},
		"systemd's directory": {[]string{"install", "--state-dir", "/var/lib/private/x"}, 2, "below /var/lib/"},
		"out of it":           {[]string{"install", "--state-dir", "/var/lib/../etc"}, 2, "below /var/lib/"},
		"a space":             {[]string{"install", "--kit", "/etc/my kit"}, 2, "--kit"},
		"a log format":        {[]string{"install", "--log-format", "xml"}, 2, "text or json"},
		"another name":        {[]string{"install", "--program", "/bin/sh"}, 1, "ends with /fleet-coordinator"},
		"no kit":              {[]string{"install", "--kit", "/etc/none"}, 1, "trust/coordinator-kit.age"},
		"no key":              {[]string{"install", "--kit-key", "/etc/none"}, 1, "trust/coordinator.agekey"},
		"another key":         {[]string{"install", "--kit-key", defaultKit}, 1, "key of the kit"},
		"uninstall":           {[]string{"uninstall"}, 1, "not installed"},
		"start":               {[]string{"start"}, 1, "not installed"},
		"status":              {[]string{"status"}, 1, "fleet-coordinator install"},
	} {
		code, _, stderr := m.run(tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.text) {
			t.Errorf("%s: %d, %s", name, code, stderr)
		}
	}
	for format, want := range map[string]string{"table": buildinfo.Text("fleet-coordinator"), "json": `"go": "` + runtime.Version()} {
		if code, out, _ := m.run("version", "-o", format); code != 0 || !strings.Contains(out, want) {
			t.Errorf("version: %d, %s", code, out)
		}
	}
	if code, _, stderr := m.run("version", "-o", "xml"); code != 2 || !strings.Contains(stderr, "table or json") {
		t.Errorf("version in another format: %d, %s", code, stderr)
	}
	if err := os.Chmod(m.path(defaultKitKey), 0o640); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := m.run("install"); code != 1 || !strings.Contains(stderr, "chmod 0600") {
		t.Errorf("a key that others read: %d, %s", code, stderr)
	}
	m.euid = 1000
	for _, args := range []string{"install", "start", "stop", "restart"} {
		if code, _, stderr := m.run(args); code != 1 || !strings.Contains(stderr, "only root") {
			t.Errorf("%s: %d, %s", args, code, stderr)
		}
	}
	if _, err := os.Stat(m.path(m.m.File(serviceName))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a unit was written: %v", err)
	}
}

func TestServiceLife(t *testing.T) {
	m := newMachine(t)
	m.runs("install")
	if out := m.runs("install"); !strings.Contains(out, "nothing was to be done") {
		t.Error(out)
	}
	m.m.Is.Text = "12 hosts"
	if out := m.runs("status"); out != "the service fleet-coordinator runs: 12 hosts\n" {
		t.Error(out)
	}
	m.runs("stop")
	if code, _, stderr := m.run("status"); code != 1 || !strings.Contains(stderr, "stopped") || !strings.Contains(stderr, "fleet-coordinator start") {
		t.Errorf("%d, %s", code, stderr)
	}
	if out := m.runs("uninstall"); !strings.Contains(out, "kept "+defaultStateDir) {
		t.Error(out)
	}
}
