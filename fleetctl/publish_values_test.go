package fleetctl

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

const publishedVars = fleetText + `vars:
  generators:
    openssh: {kind: ssh-host-key, machines: [galena]}
    web: {kind: password, machines: [galena, cinnabar], share: true, settings: {hash: yescrypt}, files: {password: {deploy: false}, password-hash: {neededFor: users}}}
    token: {kind: token, machines: [galena], files: {token: {owner: nginx, mode: "0440", restartUnits: [nginx.service]}}}
`

// openDocument decrypts a value's blob as its host would.
func (w *world) openDocument(host age.Identity, e fleet.SecretEntry) (string, error) {
	w.t.Helper()
	d, err := sops.Parse(w.server.Blobs[string(e.Digest)])
	if err != nil {
		w.t.Fatal(err)
	}
	plain, err := d.Decrypt(sops.Identity{Identity: host})
	return string(plain), err
}

// TestPublishValues publishes what generators deploy: the documents as they are in the
// tree, for just those who are meant to read them.
func TestPublishValues(t *testing.T) {
	w := newWorld(t)
	w.write(publishedVars, repo.FleetFile)
	w.ok("vars", "keygen")
	w.fails(exitError, "vars/per-machine/galena/openssh/ssh.id_ed25519: the secret value is missing", "publish", "galena")
	w.ok("vars", "generate")

	// It made a key of its own, and was not given the one that was made for it here.
	host := w.enrol("galena")
	if _, _, warned := w.run("publish", "galena"); !strings.Contains(warned, "fleetctl vars fix --host-keys") {
		t.Errorf("nobody is told that the host can't read its values: %s", warned)
	}
	_, manifest := w.desired("galena")
	if _, err := w.openDocument(host, manifest.Doc.Entries[0]); err == nil {
		t.Error("whoever enrols reads what is another's")
	}
	w.ok("vars", "fix", "--host-keys")
	if _, err := os.Stat(filepath.Join(w.dir, "sops/secrets/galena-age.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key that opens nothing is there: %v", err)
	}
	w.ok("vars", "check", "galena")
	w.published("galena")
	_, manifest = w.desired("galena")
	got := map[string]fleet.SecretEntry{}
	for _, e := range manifest.Doc.Entries {
		got[e.Path] = e
		if e.Format != fleet.FormatSops || e.Version != 2 {
			t.Errorf("%+v", e)
		}
		if _, err := w.openDocument(host, e); err != nil {
			t.Errorf("%s: %v", e.Path, err)
		}
	}
	token := got["vars/per-machine/galena/token/token"]
	if len(got) != 3 || token.Owner != "nginx" || token.Mode != 0o440 || strings.Join(token.RestartUnits, " ") != "nginx.service" ||
		got["vars/shared/web/password-hash"].NeededFor != fleet.NeededForUsers {
		t.Errorf("published %+v", got)
	}
	plain, err := w.openDocument(host, token)
	if want := w.ok("vars", "get", "galena", "token/token"); err != nil || plain != want {
		t.Errorf("the host reads %q, %v, want %q", plain, err, want)
	}
	if !w.published("galena").Generations[0].Same {
		t.Error("published anew what is the same")
	}

	// Another value is another version of it, and of nothing else.
	w.ok("vars", "generate", "galena", "-g", "token", "--regenerate")
	w.published("galena")
	_, manifest = w.desired("galena")
	for _, e := range manifest.Doc.Entries {
		if want := map[bool]uint64{true: 3, false: 2}[e.Path == token.Path]; e.Version != want {
			t.Errorf("%s has version %d, want %d", e.Path, e.Version, want)
		}
	}
}

// TestPublishStopsBeforeOthersRead is a recipient that a merge smuggled into a document:
// nothing is published before somebody has looked.
func TestPublishStopsBeforeOthersRead(t *testing.T) {
	w := newWorld(t)
	w.write(publishedVars, repo.FleetFile)
	w.enrol("galena")
	w.ok("vars", "keygen")
	w.fails(exitError, "is missing", "publish", "galena") // The key that it enrolled with is on record now.
	w.ok("vars", "generate")
	path := filepath.Join(w.dir, "vars/per-machine/galena/token/token/secret")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := sops.Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ids, _, err := (&options{Getenv: w.getenv, Stderr: os.Stderr}).identities()
	if err != nil {
		t.Fatal(err)
	}
	var to []sops.Recipient
	for _, r := range append(d.Recipients(), stranger.Recipient().String()) {
		one, err := sops.ParseRecipient(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, one)
	}
	if d, err = d.Rewrap(ids, to); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, d.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "vars/per-machine/galena/token/token: ", "publish", "galena")
	w.fails(exitError, stranger.Recipient().String(), "publish", "galena")
	if len(w.server.Releases) != 0 {
		t.Error("something was published")
	}
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	w.published("galena")
}

// TestPublishHostPaths: hosts have values at the paths of older layouts too, and what
// activation scripts need where these look for it.
func TestPublishHostPaths(t *testing.T) {
	w := newWorld(t)
	w.write(fleetText+`vars:
  hostPaths: [short, plain, dotted]
  generators:
    token: {kind: token, machines: [galena]}
    disk: {kind: token, machines: [galena], files: {token: {neededFor: activation, owner: nginx, mode: "0440"}}}
`, repo.FleetFile)
	w.ok("vars", "keygen")
	w.enrol("galena")
	w.ok("vars", "generate")
	w.published("galena")
	_, manifest := w.desired("galena")
	want := []fleet.SecretEntry{
		{Name: "disk.token", Path: "per-machine/galena/disk/token", NeededFor: fleet.NeededForActivation, Mode: 0o400},
		{Name: "token.token", Path: "vars/per-machine/galena/token/token", Also: []string{"vars/token/token", "per-machine/galena/token/token", "token.token"}, Mode: 0o400},
	}
	var got []fleet.SecretEntry
	for _, e := range manifest.Doc.Entries {
		e.Version, e.Format, e.Digest, e.Size = 0, "", "", 0
		got = append(got, e)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c := manifest.Doc.Critical; !slices.Contains(c, fleet.CriticalAlso) || !slices.Contains(c, fleet.CriticalNeededFor) {
		t.Errorf("critical are %q", c)
	}
}
