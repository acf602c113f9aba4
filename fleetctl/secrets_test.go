package fleetctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// TestSecretsStatus: which version a host has is what its generations' manifests name.
func TestSecretsStatus(t *testing.T) {
	w := newWorld(t)
	w.write(fleetText+`  machine:
    galena:
      secrets:
        token: {file: ./sealed/token.age}
`, repo.FleetFile)
	w.sealSecret("one")
	w.enrol("galena")
	one := w.published("galena")
	w.fails(exitError, "fleetctl secrets list has the names", "secrets", "status", "tokn")
	w.fails(exitError, "fleetctl secrets list has the names", "secrets", "status", "generator/file")
	w.fails(exitUsage, "malformed name", "secrets", "status", "vars/shared/a/b")
	w.sealSecret("two")
	two := w.published("galena")

	ref := func(r publishResult) *fleetv1.GenerationRef {
		g := r.Generations[0]
		return &fleetv1.GenerationRef{Number: g.Number, Digest: string(g.Digest), Release: string(r.Release)}
	}
	host := func(current, confirmed *fleetv1.GenerationRef) {
		w.server.Hosts = []*fleetv1.Host{{
			Machine: &fleetv1.Machine{Name: "galena", Class: "linux"}, Enrolled: true, LastSeen: timestamppb.New(w.clock.Add(-3 * 3600e9)),
			Profiles: []*fleetv1.ProfileStatus{{Profile: "system", State: "confirmed", Desired: ref(two), Current: current, Confirmed: confirmed}},
		}}
	}
	host(ref(one), ref(one))
	code, out, errs := w.run("secrets", "status", "token")
	w.golden("secrets-status", out)
	if code != exitError || !strings.Contains(errs, "before the old one is revoked at its provider") {
		t.Errorf("exit %d\n%s", code, errs)
	}
	unknown := &fleetv1.GenerationRef{Number: "1.9", Digest: string(fleet.DigestOf([]byte("?"))), Release: "r20260301-110000-000009"}
	for name, c := range map[string]struct {
		current, confirmed *fleetv1.GenerationRef
		want               string
	}{
		"not confirmed": {ref(two), ref(one), "1"}, "nothing yet": {ref(two), nil, versionNone}, "another's": {ref(two), unknown, versionUnknown},
	} {
		host(c.current, c.confirmed)
		code, out, _ := w.run("secrets", "status", "token", "-o", "json")
		var res secretStatus
		if err := json.Unmarshal([]byte(out), &res); err != nil || code != exitError || res.Done || res.Hosts[0].Confirmed != c.want || res.Hosts[0].Current != "2" {
			t.Errorf("%s: exit %d, %v\n%s", name, code, err, out)
		}
	}
	w.server.Hosts = nil // The coordinator says nothing of it.
	w.fails(exitError, "not every host", "secrets", "status", "token")
	host(ref(two), ref(two))
	w.golden("secrets-status-done", w.ok("secrets", "status", "token"))

	list := w.ok("secrets", "list")
	if !strings.Contains(list, "machine galena") || !strings.Contains(list, "version 2 in generation "+two.Generations[0].Number) {
		t.Errorf("listed\n%s", list)
	}
	var all secretsList
	if err := json.Unmarshal([]byte(w.ok("secrets", "list", "-o", "json")), &all); err != nil || len(all.Published) != 1 || len(all.Published[0].Recipients) == 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestSecretsListWithoutPublishing: values are listed without key and coordinator.
func TestSecretsListWithoutPublishing(t *testing.T) {
	w := newVarsWorld(t)
	w.ok("vars", "generate")
	w.config = t.TempDir()
	w.golden("secrets-list", w.ok("secrets", "list"))
	w.golden("secrets-help", w.ok("secrets", "--help"))
}

// TestSecretsRevoke: who is taken away reads nothing of what is there afterwards, and what
// nothing makes anew is named.
func TestSecretsRevoke(t *testing.T) {
	w := newRotateWorld(t)
	tara := w.config
	dana := func(args ...string) (int, string) {
		w.config, w.user = filepath.Join(w.dir, "..", filepath.Base(w.dir)+"-dana"), "dana"
		code, out, errs := w.run(args...)
		w.config, w.user = tara, "tara"
		return code, out + errs
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(w.dir, "..", filepath.Base(w.dir)+"-dana")) })
	if code, out := dana("vars", "keygen"); code != exitOK {
		t.Fatal(out)
	}
	for _, name := range []string{"openssh-ca/id_ed25519", "wifi/password"} {
		w.ok("vars", "reader", "add", "box1", name, "user:dana")
	}
	w.commitAll()
	ca, token := w.ok("vars", "get", "box1", "openssh-ca/id_ed25519"), w.ok("vars", "get", "box1", "token/token")
	if code, out := dana("vars", "get", "box1", "openssh-ca/id_ed25519"); code != exitOK || out != ca {
		t.Fatalf("dana can't read what she is to: %s", out)
	}
	w.golden("secrets-revoke", w.ok("secrets", "revoke", "user:dana"))
	if w.git("rev-list", "--count", "HEAD") != "2" || w.git("status", "--porcelain") != "" {
		t.Errorf("not one commit: %s", w.git("status", "--porcelain"))
	}
	if now := w.ok("vars", "get", "box1", "openssh-ca/id_ed25519"); now == ca {
		t.Error("she knows the value")
	}
	if w.ok("vars", "get", "box1", "token/token") != token {
		t.Error("a value changed that she could not read")
	}
	for _, name := range []string{"openssh-ca/id_ed25519", "wifi/password"} {
		if code, out := dana("vars", "get", "box1", name); code != exitError || !strings.Contains(out, "none of the keys at hand opens it") {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
	}
	w.ok("vars", "check")
	w.fails(exitError, "your own keys", "secrets", "revoke", "user:tara")
	w.fails(exitError, "take it out of fleet.yaml", "secrets", "revoke", "machine:box1")
	w.fails(exitError, "not in the tree", "secrets", "revoke", "user:dana")
	w.fails(exitError, "no machine was sent a secret dana", "secrets", "revoke", "dana")
	w.fails(exitUsage, "is no reader", "secrets", "revoke", "person:dana")
}
