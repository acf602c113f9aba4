package fleetctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/fakeagent"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// person is somebody else with the same repository, on another machine: own
// configuration, own age identity.
func (w *world) person(name string) *world {
	w.t.Helper()
	p := w.clone()
	p.config = w.t.TempDir()
	p.user = name
	return p
}

// pull gets what another person committed.
func (w *world) pull(from *world) {
	w.t.Helper()
	if err := os.RemoveAll(filepath.Join(w.dir, "trust")); err != nil {
		w.t.Fatal(err)
	}
	for _, dir := range []string{"trust", "releases"} {
		if _, err := os.Stat(filepath.Join(from.dir, dir)); err != nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(w.dir, dir)); err != nil {
			w.t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(w.dir, dir), os.DirFS(filepath.Join(from.dir, dir))); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) trust() *release.Trust {
	w.t.Helper()
	t, _, err := repo.At(w.dir).Trust()
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

var keyDigits = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

func TestTrustShow(t *testing.T) {
	w := newWorld(t)
	w.golden("trust-show", w.ok("trust", "show"))
	w.golden("trust-show-json", keyDigits.ReplaceAllString(w.ok("trust", "show", "-o", "json"), "<key>"))
	w.golden("trust-help", w.ok("trust", "--help"))

	w.clock = w.clock.AddDate(2, 0, -15)
	if out := w.ok("trust", "show"); !strings.Contains(out, "warning: the trust root expires in 14 days") {
		t.Errorf("no warning:\n%s", out)
	}
	w.clock = w.clock.AddDate(0, 1, 0)
	if out := w.ok("trust", "show"); !strings.Contains(out, "hosts refuse everything new") {
		t.Errorf("no warning:\n%s", out)
	}
	// The way out is open.
	w.ok("trust", "renew")
	w.ok("trust", "sign", "--yes")
	if out := w.ok("trust", "show"); strings.Contains(out, "warning") || !strings.Contains(out, "version 2") {
		t.Errorf("after the renewal:\n%s", out)
	}
}

func TestRotateReleaseKey(t *testing.T) {
	w := newWorld(t)
	w.published()
	old := w.trust()
	w.golden("trust-rotate", w.ok("trust", "rotate", "release", "--raise-epoch"))
	if w.trust().Digest() != old.Digest() {
		t.Fatal("a draft counts already")
	}
	w.golden("trust-sign", w.ok("trust", "sign", "-y"))
	now := w.trust().Root()
	if now.Version != 2 || now.Epoch != 2 || now.Roles[release.RoleRelease].KeyIDs[0] == old.Root().Roles[release.RoleRelease].KeyIDs[0] {
		t.Errorf("root %+v", now)
	}
	w.fails(exitError, "no draft", "trust", "sign", "-y")
	// Publish hands it over before what its keys sign, and begins a new epoch.
	if out := w.ok("publish"); !strings.Contains(out, "2.1") {
		t.Errorf("publish:\n%s", out)
	}
	if len(w.server.Roots) != 1 || w.server.RootVersion != 2 {
		t.Errorf("%d roots were handed over, the coordinator is at %d", len(w.server.Roots), w.server.RootVersion)
	}
	w.server.RootVersion = 3
	w.fails(exitError, "trust root is behind", "publish")
}

// TestTwoPeopleRaiseTheThreshold has two people with a root key each agree: the
// threshold is 2 then, and the next change takes both.
func TestTwoPeopleRaiseTheThreshold(t *testing.T) {
	w := newWorld(t)
	dana := w.person("dana")
	dana.ok("trust", "new-key", "root-dana", "--recipient", dana.ageRecipient())
	w.pull(dana)
	// Init's second key is kept elsewhere: the new threshold takes dana's.
	if err := os.Remove(filepath.Join(w.dir, "trust", "keys", "root-2.age")); err != nil {
		t.Fatal(err)
	}
	w.ok("trust", "add-key", "root", filepath.Join(w.dir, "trust", "keys", "root-dana.pub"))
	w.ok("trust", "set-threshold", "root", "2")
	before := w.trust().Root().Version
	out := w.ok("trust", "sign", "-y")
	if !strings.Contains(out, "More are needed") || w.trust().Root().Version != before {
		t.Fatalf("one signature was enough:\n%s", out)
	}
	w.fails(exitError, "no root key that has not signed", "trust", "sign", "-y")
	dana.pull(w)
	dana.clock = w.clock.Add(time.Hour)
	out = dana.ok("trust", "sign", "-y")
	if !strings.Contains(out, "It is the trust root now") {
		t.Fatalf("two are not enough:\n%s", out)
	}
	w.pull(dana)
	if w.trust().Root().Version != before+1 {
		t.Errorf("version %d", w.trust().Root().Version)
	}
}

func TestTrustKeyInAgent(t *testing.T) {
	w := newWorld(t)
	a := fakeagent.Start(t)
	w.agent = a.Socket
	plain, hard := a.AddPlain(t, "laptop"), a.AddSecurityKey(t, "ssh:", "token")
	w.ok("trust", "rotate", "release", "--to", "ssh-agent:"+fingerprint(plain))
	w.ok("trust", "rotate", "secrets", "--to", "ssh-agent:"+fingerprint(hard))
	w.ok("trust", "sign", "-y")
	w.published()
	if out := w.ok("trust", "show"); !strings.Contains(out, "ssh-agent SHA256:") || !strings.Contains(out, "laptop") {
		t.Errorf("trust show:\n%s", out)
	}
	a.Locked = true
	w.fails(exitError, "refuses to sign", "publish")
	a.Locked = false
	w.fails(exitError, "not enough keys", "publish", "--key", filepath.Join(w.dir, "trust", "keys", "release-1.age"))
	w.ok("publish", "--key", "ssh-agent:"+fingerprint(plain))
	w.agent = ""
	w.fails(exitError, "not enough keys", "publish")
	if out := w.ok("trust", "show"); !strings.Contains(out, "the key itself is elsewhere") {
		t.Errorf("trust show:\n%s", out)
	}
}

func TestTrustRefusals(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		code int
		text string
		args []string
	}{
		{exitUsage, "no such role", []string{"trust", "rotate", "king"}},
		{exitUsage, "which role", []string{"trust", "rotate"}},
		{exitError, "may be one of 2", []string{"trust", "rotate", "root"}},
		{exitError, "no such key", []string{"trust", "remove-key", "root", "zz"}},
		{exitError, "cannot reach", []string{"trust", "remove-key", "release", ""}},
		{exitError, "cannot reach", []string{"trust", "set-threshold", "release", "2"}},
		{exitUsage, "no number", []string{"trust", "set-threshold", "release", "two"}},
		{exitUsage, "names no key", []string{"trust", "add-key", "root", "nothing"}},
		{exitUsage, "no such file", []string{"trust", "add-key", "root", "nothing.pub"}},
		{exitError, "SSH_AUTH_SOCK", []string{"trust", "add-key", "root", "ssh-agent:SHA256:x"}},
		{exitUsage, "cannot name a key", []string{"trust", "new-key", "../x"}},
		{exitUsage, "recipient", []string{"trust", "new-key", "x", "--recipient", "age1x"}},
		{exitUsage, "--expiry", []string{"trust", "renew", "--expiry", "1h"}},
		{exitError, "no draft", []string{"trust", "sign"}},
		{exitUsage, "--key", []string{"publish", "--key", "nothing.age"}},
	} {
		w.fails(tc.code, tc.text, tc.args...)
	}
	w.ok("trust", "new-key", "x")
	w.fails(exitError, "there already", "trust", "new-key", "x")
	w.ok("trust", "renew")
	w.fails(exitUsage, "no terminal", "trust", "sign")

	// Two people changed it at once.
	w.write("{\n<<<<<<< HEAD\n}\n", "trust", "draft.json")
	w.fails(exitError, "two people changed", "trust", "sign", "-y")
	w.write("{}", "trust", "draft.json")
	w.fails(exitError, "another trust root", "trust", "sign", "-y")
	w.write("no JSON", "trust", "draft.json")
	w.fails(exitError, "damaged", "trust", "renew")
	if out := w.ok("trust", "show"); !strings.Contains(out, "warning") {
		t.Errorf("trust show:\n%s", out)
	}
	w.ok("trust", "discard")
	w.ok("trust", "discard")
	w.ok("trust", "renew")
}

// TestDraftsOfTwoPeople has two drafts over the same root: the second is told
// once the first became the next root.
func TestDraftsOfTwoPeople(t *testing.T) {
	w := newWorld(t)
	other := w.clone()
	w.ok("trust", "rotate", "release")
	other.ok("trust", "rotate", "secrets")
	w.ok("trust", "sign", "-y")
	if err := os.CopyFS(filepath.Join(other.dir, "trust", "root"), os.DirFS(filepath.Join(w.dir, "trust", "root"))); err == nil {
		t.Fatal("version 1 was overwritten")
	}
	data, err := os.ReadFile(filepath.Join(w.dir, "trust", "root", "2.json"))
	if err != nil {
		t.Fatal(err)
	}
	other.write(string(data), "trust", "root", "2.json")
	other.fails(exitError, "another trust root than the newest", "trust", "sign", "-y")
	other.fails(exitError, "another trust root than the newest", "trust", "renew")
	other.ok("trust", "discard")
	other.ok("trust", "rotate", "secrets")
	other.ok("trust", "sign", "-y")
	if v := other.trust().Root().Version; v != 3 {
		t.Errorf("version %d", v)
	}
}

// TestEnactInterrupted is a crash between the new root and the end of its draft.
func TestEnactInterrupted(t *testing.T) {
	w := newWorld(t)
	w.ok("trust", "rotate", "release")
	draft := filepath.Join(w.dir, "trust", "draft.json")
	w.ok("trust", "sign", "-y", "-o", "json")
	if _, err := os.Stat(draft); err == nil {
		t.Fatal("the draft is still there")
	}
	env, err := os.ReadFile(filepath.Join(w.dir, "trust", "root", "2.json"))
	if err != nil {
		t.Fatal(err)
	}
	left, err := json.Marshal(repo.Draft{Base: "sha256:" + "0", Envelope: env})
	if err != nil {
		t.Fatal(err)
	}
	w.write(string(left), "trust", "draft.json")
	w.fails(exitError, "no draft", "trust", "sign", "-y")
	w.write(string(left), "trust", "draft.json")
	w.ok("trust", "renew")
	w.ok("trust", "sign", "-y")
	if v := w.trust().Root().Version; v != 3 {
		t.Errorf("version %d", v)
	}
}

// TestSignDraftFile signs a draft that came by mail.
func TestSignDraftFile(t *testing.T) {
	w := newWorld(t)
	w.ok("trust", "renew")
	mail := filepath.Join(t.TempDir(), "draft.json")
	data, err := os.ReadFile(filepath.Join(w.dir, "trust", "draft.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mail, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := w.ok("trust", "sign", "-y", mail); !strings.Contains(out, "That is enough") || w.trust().Root().Version != 1 {
		t.Errorf("signing a file:\n%s", out)
	}
	signed, err := os.ReadFile(mail)
	if err != nil {
		t.Fatal(err)
	}
	w.write(string(signed), "trust", "draft.json")
	w.ok("trust", "sign")
	if v := w.trust().Root().Version; v != 2 {
		t.Errorf("version %d", v)
	}
	w.fails(exitUsage, "no such file", "trust", "sign", filepath.Join(t.TempDir(), "gone"))
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]int{"y\n": exitOK, "YES\n": exitOK, "n\n": exitError, "\n": exitError, "": exitError, "yess\n": exitError} {
		w := newWorld(t)
		w.ok("trust", "renew")
		w.answers, w.asked = answer, true
		if code, _, errs := w.run("trust", "sign"); code != want || !strings.Contains(errs, "[y/N]") {
			t.Errorf("%q: exit %d with %s", answer, code, errs)
		}
	}
}
