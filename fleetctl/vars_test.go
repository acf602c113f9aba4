package fleetctl

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

const varsText = `fleet: first
machines:
  box1: {class: nixos}
  box2: {class: linux}
vars:
  generators:
    openssh: {kind: ssh-host-key}
    token: {kind: token, share: true, files: {token: {owner: nginx, mode: "0440"}}}
    tor: {kind: tor-onion, machines: [box1]}
`

// newVarsWorld is a fleet of two machines and a person with a key, and no coordinator.
func newVarsWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), config: t.TempDir(), user: "tara", clock: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.write(varsText, repo.FleetFile)
	w.ok("vars", "keygen")
	return w
}

// git makes the repository one of git.
func (w *world) git(args ...string) string {
	w.t.Helper()
	out, err := exec.Command("git", append([]string{"-C", w.dir, "-c", "user.name=Tara", "-c", "user.email=tara@example.org"}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (w *world) commitAll() {
	w.t.Helper()
	w.git("init", "--quiet")
	w.git("config", "user.name", "Tara")
	w.git("config", "user.email", "tara@example.org")
	w.git("add", ".")
	w.git("commit", "--quiet", "--message", "first")
}

var (
	publicKey = regexp.MustCompile(`AAAA[A-Za-z0-9+/=]+`)
	ageKey    = regexp.MustCompile(`age1[a-z0-9]+`)
)

func TestVarsHelp(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), config: t.TempDir()}
	w.golden("vars-help", w.ok("vars", "--help"))
	w.golden("vars-generate-help", w.ok("vars", "generate", "--help"))
}

func TestVars(t *testing.T) {
	w := newVarsWorld(t)
	w.golden("vars-list-none", w.ok("vars", "list", "box1"))
	code, out, _ := w.run("vars", "check")
	w.golden("vars-check-none", out)
	if code != exitError {
		t.Errorf("check: exit %d", code)
	}
	w.golden("vars-generate", w.ok("vars", "generate"))
	w.golden("vars-list", publicKey.ReplaceAllString(w.ok("vars", "list", "box1"), "AAAA"))
	w.golden("vars-list-json", publicKey.ReplaceAllString(w.ok("vars", "list", "box1", "-o", "json"), "AAAA"))
	w.golden("vars-check", w.ok("vars", "check"))
	if got := w.ok("vars", "generate"); got != "nothing to generate\n" {
		t.Errorf("once more: %s", got)
	}
	token := w.ok("vars", "get", "box2", "token/token")
	if !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(token) || w.ok("vars", "get", "box1", "token/token", "-o", "json") != token {
		t.Errorf("token %q", token)
	}
	if key := w.ok("vars", "get", "box1", "tor/hs_ed25519_secret_key"); len(key) != 96 {
		t.Errorf("%d bytes of a key", len(key))
	}
	w.answers = "s3cret\x00 value"
	if got := w.ok("vars", "set", "box1", "token/token"); got != "set vars/shared/token/token\n" {
		t.Errorf("set: %s", got)
	}
	if got := w.ok("vars", "set", "box1", "token/token"); !strings.Contains(got, "has this value already") {
		t.Errorf("set again: %s", got)
	}
	if got := w.ok("vars", "get", "box1", "token/token"); got != w.answers {
		t.Errorf("got %q", got)
	}
	w.answers = "tor.onion\n"
	w.ok("vars", "set", "box1", "openssh/ssh.id_ed25519.pub", "-o", "json")
	if got := w.ok("vars", "get", "box1", "openssh/ssh.id_ed25519.pub"); got != w.answers {
		t.Errorf("got %q", got)
	}
	w.answers = strings.Repeat("x", 1<<20+1)
	w.fails(exitError, "too large", "vars", "set", "box1", "token/token")
	w.answers = ""
	w.ok("vars", "set", "box1", "token/token") // Empty is a value.
	w.fails(exitError, `did you mean token/token?`, "vars", "get", "box1", "tok")
	w.fails(exitError, "has no value", "vars", "get", "box2", "tor/hostname")
	w.fails(exitError, "box3", "vars", "list", "box3")
	w.fails(exitError, "box3", "vars", "generate", "box3")
	w.fails(exitError, "not declared", "vars", "check", "-g", "no-such")
	w.fails(exitUsage, "accepts 2 arg", "vars", "set", "box1", "token/token", "value")
	w.fails(exitError, "is not set", "vars", "get", "box1", w.delete("vars/per-machine/box1/tor/hostname", "tor/hostname"))
}

// delete removes a value and returns its name.
func (w *world) delete(path, name string) string {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.dir, path)); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// TestVarsWithoutDeclaration: what clan's own generators made is listed, read, and set too.
func TestVarsWithoutDeclaration(t *testing.T) {
	w := newVarsWorld(t)
	w.ok("vars", "generate")
	w.write("fleet: first\nmachines: {box1: }\n", repo.FleetFile)
	if got := w.ok("vars", "list", "box1"); !strings.Contains(got, "token/token: ********\n") || !strings.Contains(got, "tor/hostname: ********\n") {
		t.Errorf("listed\n%s", got)
	}
	w.answers = "new"
	w.ok("vars", "set", "box1", "tor/hostname")
	if got := w.ok("vars", "get", "box1", "tor/hostname"); got != "new" {
		t.Errorf("got %q", got)
	}
	if got := w.ok("vars", "check"); got != "ok: 0 generators\n" {
		t.Errorf("check: %s", got)
	}
}

func TestVarsPrompts(t *testing.T) {
	w := newVarsWorld(t)
	w.write(strings.ReplaceAll(varsText, "  generators:", "  generators:\n    root: {kind: root-password, machines: [box2]}"), repo.FleetFile)
	w.fails(exitUsage, "no terminal to ask on for password of per-machine/box2/root", "vars", "generate")
	if _, err := os.Stat(filepath.Join(w.dir, "vars")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	w.asked, w.answers = true, "first\nsecond\nthree\nfour\nfive\nsix\n"
	w.fails(exitError, "the two answers differ, 3 times", "vars", "generate")
	w.answers = "only once"
	w.fails(exitError, "the input ended", "vars", "generate")
	w.answers = "hunter2\nhunter3\nhunter2 and more\nhunter2 and more\n"
	code, out, errs := w.run("vars", "generate")
	if code != exitOK || strings.Contains(out+errs, "hunter") || !strings.Contains(errs, "The two differ") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	if got := w.ok("vars", "get", "box2", "root/password"); got != "hunter2 and more" {
		t.Errorf("password %q", got)
	}
	w.answers = "typed\nin two lines\n\x04\ntyped\nin two lines\n\x04\n"
	w.ok("vars", "set", "box2", "token/token")
	if got := w.ok("vars", "get", "box2", "token/token"); got != "typed\nin two lines" {
		t.Errorf("token %q", got)
	}
}

func TestVarsGit(t *testing.T) {
	w := newVarsWorld(t)
	w.commitAll()
	w.write("x", "staged")
	w.git("add", "staged")
	w.ok("vars", "generate")
	if got := w.git("log", "--format=%s", "-1"); got != "vars: update via 4 generators" {
		t.Errorf("commit %s", got)
	}
	if got := w.git("status", "--porcelain"); got != "A  staged" {
		t.Errorf("left\n%s", got)
	}
	w.ok("vars", "generate", "-g", "tor")
	if got := w.git("log", "--format=%s", "-1"); got != "vars: update via generator tor (machine: box1)" {
		t.Errorf("commit %s", got)
	}
	w.answers = "x"
	w.ok("vars", "set", "box2", "token/token")
	if got := w.git("log", "--format=%s", "-1"); got != "vars: update token/token for machine box2" {
		t.Errorf("commit %s", got)
	}
	before := w.git("rev-parse", "HEAD")
	w.answers = "y"
	w.ok("vars", "set", "box2", "token/token", "--no-commit")
	w.fails(exitError, "vars/shared/token/token/secret", "vars", "set", "box2", "token/token")
	w.fails(exitError, "not committed", "vars", "generate", "-g", "tor")
	if w.git("rev-parse", "HEAD") != before {
		t.Error("something was committed")
	}
	if got := w.ok("vars", "get", "box2", "token/token"); got != "y" {
		t.Errorf("token %q", got)
	}
}

// TestVarsLocked: of two runs at once one waits, and says for whom.
func TestVarsLocked(t *testing.T) {
	w := newVarsWorld(t)
	c, err := vars.Begin(t.Context(), w.dir, vars.Options{Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // A test's.
	ctx, stop := context.WithTimeout(t.Context(), 2*lockWait)
	defer stop()
	code, _, errs := w.runContext(ctx, "vars", "generate")
	if code != exitConflict || !strings.Contains(errs, "has the lock") || !strings.Contains(errs, "hint: ") {
		t.Errorf("exit %d\n%s", code, errs)
	}
}

func TestVarsReaders(t *testing.T) {
	w := newVarsWorld(t)
	w.ok("vars", "generate")
	dana := &world{t: t, dir: w.dir, config: t.TempDir(), user: "dana", clock: w.clock}
	dana.fails(exitError, "keygen", "vars", "get", "box1", "token/token")
	dana.golden("vars-keygen", ageKey.ReplaceAllString(dana.ok("vars", "keygen"), "age1…"))
	dana.ok("vars", "keygen") // It changes nothing.
	dana.fails(exitError, "ask one of them to add you", "vars", "get", "box1", "token/token")
	w.fails(exitUsage, "no reader", "vars", "reader", "add", "box1", "token/token", "dana")
	w.fails(exitError, "user eve", "vars", "reader", "add", "box1", "token/token", "user:eve")
	w.fails(exitError, "no secret", "vars", "reader", "add", "box1", "openssh/ssh.id_ed25519.pub", "user:dana")
	w.ok("vars", "reader", "add", "box1", "token/token", "user:dana")
	token := w.ok("vars", "get", "box1", "token/token")
	if dana.ok("vars", "get", "box1", "token/token") != token {
		t.Error("dana reads another value")
	}
	w.ok("vars", "check")
	if got := ageKey.ReplaceAllString(w.ok("vars", "reader", "remove", "box1", "token/token", "user:dana"), "age1…"); !strings.Contains(got, "vars/shared/token/token is known to user dana (age1…): make a new value") {
		t.Errorf("removed:\n%s", got)
	}
	// By a group that reads all.
	w.write(strings.ReplaceAll(varsText, "  generators:", "  groups: [admins]\n  generators:"), repo.FleetFile)
	w.fails(exitError, "group admins", "vars", "generate", "-g", "token")
	w.ok("secrets", "groups", "add-user", "admins", "dana")
	code, out, _ := w.run("vars", "check", "-o", "json")
	var verdict varsVerdict
	if err := json.Unmarshal([]byte(out), &verdict); err != nil || code != exitError || len(verdict.Findings) != 5 || verdict.Findings[0].Kind != "readers" {
		t.Errorf("exit %d, %v\n%s", code, err, out)
	}
	w.golden("vars-fix", w.ok("vars", "fix"))
	w.ok("vars", "check")
	if dana.ok("vars", "get", "box1", "token/token") != token {
		t.Error("dana reads another value")
	}
	if got := w.ok("secrets", "groups", "remove-user", "admins", "dana"); strings.Count(got, "is known to user dana") == 0 {
		t.Errorf("removed:\n%s", got)
	}
	// Somebody else's name, and another key.
	eve := &world{t: t, dir: w.dir, config: t.TempDir(), user: "tara", clock: w.clock}
	eve.fails(exitError, "has other keys", "vars", "keygen")
	eve.fails(exitError, "ask one of them", "vars", "keygen", "--force")
	eve.fails(exitUsage, "malformed name", "vars", "keygen", "--user", "Eve!")
}

// TestVarsSmuggled: a recipient that nobody linked stops generate with the code of alarms.
func TestVarsSmuggled(t *testing.T) {
	w := newVarsWorld(t)
	w.ok("vars", "generate")
	other := sopstest.NewKey(t)
	// Somebody takes box2's place without re-keying, as a merge can.
	w.write(`[{"publickey": "`+other.Public+`", "type": "age"}]`, "sops", "machines", "box2", "key.json")
	w.fails(exitRefused, other.Public, "vars", "generate")
	w.fails(exitError, "vars fix", "vars", "check")
	w.ok("vars", "fix")
	w.ok("vars", "check")
}

func TestVarsBadDeclaration(t *testing.T) {
	w := newVarsWorld(t)
	w.write(strings.ReplaceAll(varsText, "kind: token", "kind: tokn"), repo.FleetFile)
	w.fails(exitError, "fleet.yaml:8: generator token: no such generator is built in", "vars", "generate")
	code, out, errs := w.run("inventory", "check")
	if code != exitError || !strings.Contains(out, "no such generator") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
}
