package fleetctl

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/cameronraysmith/fleet/fleetctl/internal/bootstrap"
	"github.com/cameronraysmith/fleet/fleetctl/internal/fakecoordinator"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fleet with a fake coordinator and an operator who types.
type world struct {
	t      *testing.T
	dir    string // of the repository
	config string // of the operator
	clock  time.Time
	began  atomic.Pointer[time.Time] // clock of the newest command
	server *fakecoordinator.Server
	nix    string // program in the place of nix; there is none by default
	user   string // USER, where it matters
	agent  string // socket of the ssh-agent
	// answers is what the operator types at a terminal; empty for no terminal,
	// unless asked is set.
	answers string
	asked   bool
}

const fleetText = `fleet: first
coordinator: {machine: cinnabar, address: "127.0.0.1:1"}
machines:
  cinnabar: {class: linux, tags: [web]}
  galena: {class: linux, tags: [web]}
  pyrite: {class: nixos}
  electrum: {class: linux, tags: [web]}
disabled: [electrum]
operators:
  cameron: {role: admin}
settings:
  tag:
    web:
      source: {bundle: ./bundles/web}
      probes:
        health: {kind: tcp, address: "127.0.0.1:8080"}
`

// newWorld makes a fleet of four machines: cinnabar and galena get a bundle,
// pyrite has no source, electrum is disabled.
func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldIn(t, filepath.Join(t.TempDir(), "first"))
}

// newWorldIn has its repository in dir, which it makes.
func newWorldIn(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: dir, config: t.TempDir(), clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.ok("init", w.dir, "--fleet", "first", "--coordinator-machine", "cinnabar", "--address", "127.0.0.1:1", "--operator", "cameron")
	w.write(fleetText, repo.FleetFile)
	w.bundle("v1")
	w.server = fakecoordinator.Start(t, w.kit(), w.now)
	return w
}

// now is the clock as it was when the newest command began: a handshake that the
// command left behind may look while the test sets the clock.
func (w *world) now() time.Time {
	if at := w.began.Load(); at != nil {
		return *at
	}
	return w.clock
}

func (w *world) getenv(name string) string {
	switch name {
	case "XDG_CONFIG_HOME":
		return w.config
	case "FLEET_DIR":
		return w.dir
	case "FLEET_NIX":
		if w.nix == "" {
			return filepath.Join(w.config, "no-nix")
		}
		return w.nix
	case "USER":
		return w.user
	case "SSH_AUTH_SOCK":
		return w.agent
	case "FLEET_COORDINATOR":
		if w.server != nil {
			return w.server.Address
		}
	}
	return ""
}

func (w *world) run(args ...string) (code int, stdout, stderr string) {
	return w.runContext(w.t.Context(), args...)
}

func (w *world) runContext(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	at := w.clock
	w.began.Store(&at)
	var out, errs bytes.Buffer
	code = run(ctx, &options{
		Stdin: strings.NewReader(w.answers), terminal: w.asked, Stdout: &out, Stderr: &errs, Now: w.now, Getenv: w.getenv,
	}, args)
	return code, out.String(), errs.String()
}

// ok runs a command that has to succeed.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	code, out, errs := w.run(args...)
	if code != exitOK {
		w.t.Fatalf("fleetctl %s: exit %d\n%s", strings.Join(args, " "), code, errs)
	}
	return out
}

// fails runs a command that has to fail with a code and a text.
func (w *world) fails(want int, text string, args ...string) {
	w.t.Helper()
	code, _, errs := w.run(args...)
	if code != want || !strings.Contains(errs, text) {
		w.t.Errorf("fleetctl %s: exit %d with\n%s\nwant exit %d with %q", strings.Join(args, " "), code, errs, want, text)
	}
	if !strings.Contains(errs, "hint: ") {
		w.t.Errorf("fleetctl %s: no hint in\n%s", strings.Join(args, " "), errs)
	}
}

// ageRecipient makes an age identity for the person, where there is none, and
// returns its public side.
func (w *world) ageRecipient() string {
	w.t.Helper()
	file := filepath.Join(w.config, "fleet", "keys.txt")
	if _, err := os.Stat(file); err != nil {
		if err := keyring.Create(file); err != nil {
			w.t.Fatal(err)
		}
	}
	k, err := keyring.Load(keyring.Places{Explicit: file, Getenv: w.getenv})
	if err != nil {
		w.t.Fatal(err)
	}
	return k.Recipients()[0]
}

func fingerprint(pub ssh.PublicKey) string { return ssh.FingerprintSHA256(pub) }

func (w *world) write(text string, elem ...string) {
	w.t.Helper()
	if err := repo.At(w.dir).Write([]byte(text), elem...); err != nil {
		w.t.Fatal(err)
	}
}

// bundle writes another version of the bundle.
func (w *world) bundle(version string) {
	w.t.Helper()
	w.write("#!/bin/sh\n# "+version+"\n", "bundles", "web", "activate")
	if err := os.Chmod(filepath.Join(w.dir, "bundles", "web", "activate"), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// kit opens the coordinator's kit with the coordinator's own key.
func (w *world) kit() *kit.Kit {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, bootstrap.CoordinatorKey))
	if err != nil {
		w.t.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	sealed, err := os.ReadFile(filepath.Join(w.dir, "trust", "coordinator-kit.age"))
	if err != nil {
		w.t.Fatal(err)
	}
	k, err := kit.Open(sealed, ids...)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// releases are those of the repository.
func (w *world) releases() []*repo.Release {
	w.t.Helper()
	list, err := repo.At(w.dir).Releases()
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// enrol plays a host that enrols with a fresh join string, and returns its age
// identity.
func (w *world) enrol(machine string) *age.X25519Identity {
	w.t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		w.t.Fatal(err)
	}
	join, err := pki.ParseJoin(w.ok("token", machine))
	if err != nil {
		w.t.Fatal(err)
	}
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	keys, err := pki.NewHostKeys(fleet.MachineName(machine), pub, id.Recipient().String()).Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	w.server.HostKeys = append(w.server.HostKeys, &fleetv1.HostKeys{
		Machine: machine, Keys: keys, Mac: join.MAC(keys), TokenHash: join.TokenHash(),
	})
	return id
}

var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:<digest>"},
	{regexp.MustCompile(`r\d{8}-\d{6}-[0-9a-f]{6}`), "<release>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "############"},
}

// golden compares with a file, after what changes from run to run is replaced.
func (w *world) golden(name, got string) {
	w.t.Helper()
	got = strings.ReplaceAll(got, w.dir, "DIR")
	got = strings.ReplaceAll(got, w.config, "CONFIG")
	if w.server != nil {
		got = strings.ReplaceAll(got, w.server.Address, "COORDINATOR")
	}
	for _, v := range volatile {
		got = v.pattern.ReplaceAllString(got, v.with)
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		w.t.Errorf("%s (-want +got; go test -update rewrites it):\n%s", file, diff)
	}
}
