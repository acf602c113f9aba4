package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// restarting has the host's secrets restart units, and keeps what systemctl is told.
type restarting struct {
	*host
	recipient age.Recipient
	told      string
	src       fleet.Source
	blob      []byte
}

func newRestarting(t *testing.T, change func(*Config)) *restarting {
	r := &restarting{host: newHost(t)}
	dir := filepath.Dir(r.config.StateDir)
	r.told, r.config.Systemctl = filepath.Join(dir, "told"), filepath.Join(dir, "systemctl")
	r.says(0)
	change(&r.config)
	r.start()
	r.coord.Wait("enrolment", func() bool { return r.coord.HostKeys().Age != "" })
	var err error
	if r.recipient, err = age.ParseX25519Recipient(r.coord.HostKeys().Age); err != nil {
		t.Fatal(err)
	}
	r.src, r.blob = r.fleet.Bundle(map[string]string{"activate": "#!/bin/sh\ncat \"$FLEET_SECRETS/app/token\" > \"$FLEET_STATE/serving\"\n"})
	return r
}

// says has systemctl write down what it is told, and exit with a code.
func (r *restarting) says(code int) {
	r.t.Helper()
	script := "#!/bin/sh\necho \"$*\" >>" + r.told + "\nexit " + string(rune('0'+code)) + "\n"
	if err := os.WriteFile(r.config.Systemctl, []byte(script), 0o755); err != nil { //nolint:gosec // A program.
		r.t.Fatal(err)
	}
}

// rotate publishes two secrets, each of which restarts a unit of its own.
func (r *restarting) rotate(seq uint64, app, db string) fleet.Ref {
	env, ref, sealed := r.fleet.SealSecrets(r.recipient, map[string]string{"app/token": app, "db/token": db, "hash": "$y$"}, func(m *fleet.SecretsManifest) {
		m.Critical = []string{fleet.CriticalRestartUnits, fleet.CriticalNeededFor}
		m.Entries[0].RestartUnits = []string{"app.service", "beside.service"}
		m.Entries[1].RestartUnits = []string{"db.service", "beside.service"}
		m.Entries[2].NeededFor = fleet.NeededForUsers
	})
	g := r.fleet.Generation(seq, r.src)
	g.Secrets = ref
	genv, gref := r.fleet.Seal(g)
	r.coord.Publish(genv, env, append([][]byte{r.blob}, sealed...)...)
	return gref
}

// expect compares what systemctl was told since the last time.
func (r *restarting) expect(want string) {
	r.t.Helper()
	got, err := os.ReadFile(r.told)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	if string(got) != want {
		r.t.Errorf("systemctl was told %q, want %q", got, want)
	}
	if err := os.RemoveAll(r.told); err != nil {
		r.t.Fatal(err)
	}
}

func (r *restarting) secret(path, want string) {
	r.t.Helper()
	if b, err := os.ReadFile(filepath.Join(r.config.SecretsDir, path)); err != nil || string(b) != want {
		r.t.Errorf("secret %s: %q, %v; want %q", path, b, err, want)
	}
}

// TestSecretRestarts: a secret whose content changes restarts what it names, once, and
// nothing else; where that does not start again, it gets the old secret back.
func TestSecretRestarts(t *testing.T) {
	r := newRestarting(t, func(*Config) {})
	r.coord.WaitState(fleet.StateConfirmed, r.rotate(1, "a1", "d1"))
	r.expect("try-restart -- app.service beside.service db.service\n")
	r.secret("for-users/hash", "$y$")

	second := r.rotate(2, "a2", "d1")
	r.coord.WaitState(fleet.StateConfirmed, second)
	r.expect("try-restart -- app.service beside.service\n")
	r.secret("app/token", "a2")

	// Other ciphertext of the same.
	third := r.rotate(3, "a2", "d1")
	r.coord.WaitState(fleet.StateConfirmed, third)
	r.expect("")

	r.says(1)
	r.rotate(4, "a2", "d2")
	// The way back restarts it too, which fails as well here.
	r.coord.Wait("the failure", func() bool {
		b, _ := os.ReadFile(r.told)
		return strings.Count(string(b), "try-restart -- beside.service db.service\n") >= 2
	})
	r.secret("db/token", "d1")
}

// TestSwitchRestarts: where NixOS switches, its switch restarts what secrets name.
func TestSwitchRestarts(t *testing.T) {
	r := newRestarting(t, func(*Config) {})
	ref := r.rotate(1, "a1", "d1")
	r.coord.WaitState(fleet.StateConfirmed, ref)
	w := r.agent.worker(fleet.System)
	st := r.agent.journal.State()
	to := st.Profile(fleet.System).Current
	to.Driver = fleet.DriverNixOS
	do := driver.Action{Steps: []driver.Step{secrets.LinkStep("/run/x", to.Secrets), {Exec: &driver.Exec{Argv: []string{"/switch"}}}}}
	w.restart(&do, journal.Built{}, to)
	if len(do.Steps) != 3 || do.Steps[1].Exec == nil || !strings.HasSuffix(strings.Join(do.Steps[1].Exec.Argv, " "), "sh app.service beside.service db.service") {
		t.Errorf("steps are %+v", do.Steps)
	}
	r.says(0)
}

// TestSecretsAfterBoot: what memory held is there again before an agent runs, with nobody to
// ask, and what is needed before there are users before the rest.
func TestSecretsAfterBoot(t *testing.T) {
	memory := os.Geteuid() == 0
	r := newRestarting(t, func(c *Config) { c.SecretsInMemory = memory })
	root := r.config.SecretsDir
	t.Cleanup(func() {
		r.crash()
		if err := secrets.Unmount(root); err != nil {
			t.Error(err)
		}
	})
	first := r.rotate(1, "a1", "d1")
	r.coord.WaitState(fleet.StateConfirmed, first)
	if err := RestoreSecrets(t.Context(), r.offline(), true); err != nil { // While the agent runs.
		t.Error(err)
	}
	r.crash()
	r.boot()
	if err := RestoreSecrets(t.Context(), r.offline(), true); err != nil {
		t.Error(err)
	}
	r.secret("for-users/hash", "$y$")
	if _, err := os.Stat(filepath.Join(root, "app/token")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is for services is there early: %v", err)
	}
	for range 2 {
		if err := RestoreSecrets(t.Context(), r.offline(), false); err != nil {
			t.Error(err)
		}
		r.secret("app/token", "a1")
		r.secret("for-users/hash", "$y$")
	}
	r.boot()
	r.start() // And an agent does it, where no unit did.
	r.secret("app/token", "a1")
	r.coord.WaitState(fleet.StateConfirmed, r.rotate(2, "a2", "d1"))
	r.secret("app/token", "a2")
}

// boot empties what a boot empties.
func (r *restarting) boot() {
	r.t.Helper()
	if err := errors.Join(secrets.Unmount(r.config.SecretsDir), os.RemoveAll(r.config.SecretsDir+".d")); err != nil {
		r.t.Fatal(err)
	}
}

// offline is what a unit early at the boot knows.
func (r *restarting) offline() Config {
	return Config{
		StateDir: r.config.StateDir, SecretsDir: r.config.SecretsDir, SecretsInMemory: r.config.SecretsInMemory,
		Log: slog.New(slog.DiscardHandler),
	}
}

// TestRestoreNothing: a host that is not enrolled has no secrets.
func TestRestoreNothing(t *testing.T) {
	c := Config{StateDir: filepath.Join(t.TempDir(), "state"), SecretsDir: filepath.Join(t.TempDir(), "secrets"), Log: slog.New(slog.DiscardHandler)}
	if err := RestoreSecrets(t.Context(), c, false); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it made a state directory: %v", err)
	}
}
