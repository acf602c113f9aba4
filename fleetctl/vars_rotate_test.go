package fleetctl

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

const rotateText = `fleet: first
machines:
  box1: {class: nixos}
  box2: {class: linux}
vars:
  generators:
    openssh: {kind: ssh-host-key}
    openssh-ca: {kind: ssh-ca, share: true}
    openssh-cert: {kind: ssh-host-certificate, settings: {domains: [zt]}}
    token: {kind: token, share: true}
    wifi:
      script: ":"
      share: true
      prompts: {password: {type: hidden, persist: true}}
      files: {password: {}}
`

func newRotateWorld(t *testing.T) *world {
	t.Helper()
	w := newVarsWorld(t)
	w.write(rotateText, repo.FleetFile)
	w.answers = "wifi password"
	w.ok("vars", "set", "box1", "wifi/password")
	w.answers = ""
	w.ok("vars", "generate")
	return w
}

func TestVarsRotate(t *testing.T) {
	w := newRotateWorld(t)
	w.commitAll()
	get := func(machine, name string) string { return w.ok("vars", "get", machine, name) }
	ca, cert, host, token := get("box1", "openssh-ca/id_ed25519"), get("box2", "openssh-cert/ssh.id_ed25519-cert.pub"), get("box2", "openssh/ssh.id_ed25519"), get("box1", "token/token")
	w.golden("vars-rotate-help", w.ok("vars", "rotate", "--help"))
	w.golden("vars-rotate", w.ok("vars", "rotate", "openssh-ca"))
	if get("box1", "openssh-ca/id_ed25519") == ca || get("box2", "openssh-cert/ssh.id_ed25519-cert.pub") == cert {
		t.Error("a value is the one from before")
	}
	if get("box2", "openssh/ssh.id_ed25519") != host || get("box1", "token/token") != token {
		t.Error("another value changed")
	}
	if n := w.git("rev-list", "--count", "HEAD"); n != "2" || w.git("status", "--porcelain") != "" {
		t.Errorf("%s commits, status %s", n, w.git("status", "--porcelain"))
	}
	if out := w.ok("vars", "rotate", "openssh", "box2"); strings.Contains(out, "box1") || !strings.Contains(out, "box2/openssh-cert") {
		t.Errorf("of one machine\n%s", out)
	}
	w.fails(exitError, "fleetctl vars set box1 wifi/password", "vars", "rotate", "wifi")
	w.fails(exitError, "not declared", "vars", "rotate", "tokn")
	// Two at once: the second waits, and then says who has it.
	c, err := vars.Begin(context.Background(), w.dir, vars.Options{Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	w.fails(exitConflict, "run this again", "vars", "rotate", "token")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// Something that is not committed is not mixed in.
	w.write("x", "vars/shared/token/token/value")
	w.fails(exitError, "not committed", "vars", "rotate", "token")
	w.delete("vars/shared/token/token/value", "")
	if now := get("box1", "token/token"); now != token {
		t.Error("the value changed")
	}
}

func TestVarsExportImport(t *testing.T) {
	w := newRotateWorld(t)
	w.commitAll()
	dir := filepath.Join(t.TempDir(), "all")
	if got := w.ok("vars", "export", dir); got != "exported 10 values to "+dir+"\n" {
		t.Errorf("%s", got)
	}
	w.fails(exitError, "not there yet", "vars", "export", dir)
	token, err := os.ReadFile(filepath.Join(dir, "shared/token/token"))
	if err != nil || string(token) != w.ok("vars", "get", "box1", "token/token") {
		t.Errorf("%v", err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "per-machine/box1/openssh-cert/.validation-hash")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	// What is there already is left; what differs is one commit.
	if got := w.ok("vars", "import", dir, "-o", "json"); !strings.Contains(got, `"changed": []`) {
		t.Errorf("%s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "shared/token/token"), []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.delete("vars/per-machine/box2", "")
	w.git("commit", "--quiet", "--all", "--message", "gone")
	if got := w.ok("vars", "import", dir); got != "imported 10 values\n" {
		t.Errorf("%s", got)
	}
	if got := w.ok("vars", "get", "box2", "token/token"); got != "another" || w.git("status", "--porcelain") != "" || w.git("rev-list", "--count", "HEAD") != "3" {
		t.Errorf("%q", got)
	}
	w.ok("vars", "check")
	// Whatever is wrong, all of it is named, and nothing changes.
	if err := os.WriteFile(filepath.Join(dir, "shared/token/other"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "shared/openssh-ca/id_ed25519.lnk")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shared/token/token"), make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"shared/token/other: it is declared nowhere", "id_ed25519.lnk: it is no file", "stray: ", "shared/token/token: it is too large"} {
		w.fails(exitError, want, "vars", "import", dir)
	}
	w.fails(exitError, "vars export wrote", "vars", "import", dir+"-no-such")
	if got := w.ok("vars", "get", "box2", "token/token"); got != "another" {
		t.Errorf("%q", got)
	}
	// Who can't read one exports nothing.
	w.config = t.TempDir()
	w.user = "dana"
	w.ok("vars", "keygen")
	none := filepath.Join(t.TempDir(), "none")
	w.fails(exitError, "none of the keys at hand opens it", "vars", "export", none)
	if _, err := os.Stat(none); !os.IsNotExist(err) {
		t.Error("something was left in clear")
	}
}

func TestVarsMigrate(t *testing.T) {
	w := newRotateWorld(t)
	secret, err := os.ReadFile(filepath.Join(w.dir, "vars/shared/token/token/secret"))
	if err != nil {
		t.Fatal(err)
	}
	token := w.ok("vars", "get", "box1", "token/token")
	w.delete("vars/shared/token", "")
	w.write(string(secret), "sops/shared/token/token")
	w.write("203.0.113.7", "sops/machines/box1/facts/net.ip")
	w.commitAll()
	w.golden("vars-migrate", w.ok("vars", "migrate"))
	if got := w.ok("vars", "get", "box1", "token/token"); got != token || w.git("status", "--porcelain") != "" {
		t.Errorf("%q, %s", got, w.git("status", "--porcelain"))
	}
	if got := w.ok("vars", "migrate"); got != "nothing is in an older layout\n" {
		t.Errorf("%s", got)
	}
	w.write("x", "sops/machines/box1/facts/a.b.c")
	w.git("add", ".")
	w.git("commit", "--quiet", "--message", "odd")
	w.fails(exitError, "a.b.c", "vars", "migrate")
}
