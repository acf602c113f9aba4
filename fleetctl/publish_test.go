package fleetctl

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// published runs publish and returns its JSON.
func (w *world) published(args ...string) publishResult {
	w.t.Helper()
	var res publishResult
	if err := json.Unmarshal([]byte(w.ok(append([]string{"publish", "-o", "json"}, args...)...)), &res); err != nil {
		w.t.Fatal(err)
	}
	return res
}

// desired opens what the coordinator has for a machine, as a host would.
func (w *world) desired(machine string) (*release.Signed[fleet.Generation], *release.Signed[fleet.SecretsManifest]) {
	w.t.Helper()
	trust, _, err := repo.At(w.dir).Trust()
	if err != nil {
		w.t.Fatal(err)
	}
	env := w.server.Newest[machine+"/system"]
	gen, err := trust.OpenGeneration(env.GetGeneration())
	if err != nil {
		w.t.Fatal(err)
	}
	var manifest *release.Signed[fleet.SecretsManifest]
	if gen.Doc.Secrets != nil {
		if manifest, err = trust.OpenSecrets(env.GetSecrets()); err != nil {
			w.t.Fatal(err)
		}
	}
	host := release.Host{Fleet: "first", Machine: fleet.MachineName(machine), Profile: fleet.System}
	if err := trust.Admit(host, gen, manifest, w.now()); err != nil {
		w.t.Fatal(err)
	}
	return gen, manifest
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	w.golden("publish-dry-run", w.ok("publish", "--dry-run"))
	if len(w.releases()) != 0 || len(w.server.Blobs) != 0 || w.server.Machines != nil {
		t.Error("a dry run changed something")
	}
	w.golden("publish", w.ok("publish"))
	gen, _ := w.desired("galena")
	if got := gen.Doc.Number; got != (fleet.Number{Epoch: 1, Seq: 1}) {
		t.Errorf("number %s", got)
	}
	if w.server.Newest["electrum/system"] != nil || w.server.Newest["pyrite/system"] != nil {
		t.Error("a machine that is disabled or has no source was published to")
	}
	first := w.releases()[0]
	if first.State != repo.ReleaseCommitted || string(first.ID) != w.server.Head {
		t.Errorf("release %s is %s, head is %s", first.ID, first.State, w.server.Head)
	}
	if len(w.server.Machines) != 4 || len(w.server.Operators) != 1 || w.server.Callers[0] != "operator/cameron" {
		t.Errorf("coordinator was told of %d machines by %v", len(w.server.Machines), w.server.Callers)
	}

	w.bundle("v2")
	res := w.published("galena")
	if len(res.Generations) != 1 || res.Generations[0].Number != "1.2" || res.Generations[0].Same || res.ExpectedHead != first.ID {
		t.Errorf("second publish: %+v", res)
	}
	second, _ := w.desired("galena")
	if len(second.Doc.RevertTo) != 1 || second.Doc.RevertTo[0].Digest != gen.Digest {
		t.Errorf("revert_to is %v, want the first generation", second.Doc.RevertTo)
	}
	if n := w.desiredNumber("cinnabar"); n != "1.1" {
		t.Errorf("cinnabar is at %s though only galena was published", n)
	}
	for range 6 {
		w.published("galena")
	}
	last, _ := w.desired("galena")
	if len(last.Doc.RevertTo) != 5 || last.Doc.RevertTo[0].Number.Seq != 7 {
		t.Errorf("revert_to is %v, want the five newest", last.Doc.RevertTo)
	}
}

func (w *world) desiredNumber(machine string) string {
	gen, _ := w.desired(machine)
	return gen.Doc.Number.String()
}

func TestPublishRefresh(t *testing.T) {
	w := newWorld(t)
	w.fails(exitError, "nothing was published for it yet", "publish", "--refresh", "galena")
	w.published("galena")
	old, _ := w.desired("galena")
	w.bundle("v2")
	w.clock = w.clock.AddDate(0, 2, 0)
	res := w.published("--refresh", "galena")
	renewed, _ := w.desired("galena")
	if !res.Generations[0].Same || renewed.Doc.Source.Bundle.Digest != old.Doc.Source.Bundle.Digest {
		t.Error("refresh took another source")
	}
	if !renewed.Doc.Expires.After(old.Doc.Expires) || renewed.Doc.Number.Seq != 2 {
		t.Errorf("refreshed generation %s expires %s", renewed.Doc.Number, renewed.Doc.Expires)
	}
	// A coordinator without its store lacks the blob, and the directory has
	// changed since.
	w.server.Blobs = map[string][]byte{}
	w.fails(exitError, "no longer here", "publish", "--refresh", "galena")
	w.bundle("v1")
	w.published("--refresh", "galena")
}

func TestPublishSelection(t *testing.T) {
	w := newWorld(t)
	w.fails(exitError, "disabled", "publish", "electrum")
	w.fails(exitError, "no source", "publish", "pyrite")
	w.fails(exitUsage, "malformed name", "publish", "../x")
	code, _, errs := w.run("publish", "galenna")
	if code != exitError || !strings.Contains(errs, "galena") {
		t.Errorf("unknown machine: exit %d\n%s", code, errs)
	}
	if err := os.Chmod(filepath.Join(w.dir, "bundles", "web", "activate"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "activate", "publish", "galena")
}

func TestPublishSecrets(t *testing.T) {
	w := newWorld(t)
	w.write(fleetText+`  machine:
    galena:
      secrets:
        token: {file: ./sealed/token.age, owner: web, mode: "0440"}
`, repo.FleetFile)
	w.sealSecret("one")
	w.fails(exitError, "no age recipient is known", "publish", "galena")
	host := w.enrol("galena")

	res := w.published("galena")
	if diff := cmp.Diff([]fleet.MachineName{"galena"}, res.Recorded); diff != "" || res.Generations[0].SecretsChanged != 1 {
		t.Errorf("recorded hosts %s, %+v", diff, res.Generations[0])
	}
	_, manifest := w.desired("galena")
	first := manifest.Doc.Entries[0]
	if first.Version != 1 || first.Path != "token" || first.Owner != "web" || first.Mode != 0o440 {
		t.Errorf("entry %+v", first)
	}
	if got := w.open(host, first); got != "one" {
		t.Errorf("the host reads %q", got)
	}

	// The same plaintext keeps ciphertext and version.
	w.sealSecret("one")
	res = w.published("galena")
	_, manifest = w.desired("galena")
	if !reflect.DeepEqual(manifest.Doc.Entries[0], first) || !res.Generations[0].Same {
		t.Errorf("entry changed without need: %+v", manifest.Doc.Entries[0])
	}

	w.sealSecret("two")
	w.published("galena")
	_, manifest = w.desired("galena")
	if e := manifest.Doc.Entries[0]; e.Version != 2 || w.open(host, e) != "two" {
		t.Errorf("entry %+v", e)
	}

	// A host that enrols anew has another key: new ciphertext, new version.
	w.clock = w.clock.Add(1e9)
	w.server.HostKeys = nil
	host = w.enrol("galena")
	w.published("galena")
	_, manifest = w.desired("galena")
	if e := manifest.Doc.Entries[0]; e.Version != 3 || w.open(host, e) != "two" {
		t.Errorf("entry %+v", e)
	}

	// Whoever loses secrets/ must still go above all versions ever signed.
	if err := os.RemoveAll(filepath.Join(w.dir, "secrets")); err != nil {
		t.Fatal(err)
	}
	w.published("galena")
	_, manifest = w.desired("galena")
	if e := manifest.Doc.Entries[0]; e.Version != 4 {
		t.Errorf("entry %+v", e)
	}
	w.published("--refresh", "galena")
}

// sealSecret writes the secret's file, encrypted to the operator.
func (w *world) sealSecret(plain string) {
	w.t.Helper()
	list, err := repo.At(w.dir).Recipients()
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := age.ParseX25519Recipient(list[0])
	if err != nil {
		w.t.Fatal(err)
	}
	var buf bytes.Buffer
	wc, err := age.Encrypt(&buf, r)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(wc, plain); err != nil {
		w.t.Fatal(err)
	}
	if err := wc.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.write(buf.String(), "sealed", "token.age")
}

// open decrypts a secret's blob as its host would.
func (w *world) open(host age.Identity, e fleet.SecretEntry) string {
	w.t.Helper()
	r, err := age.Decrypt(bytes.NewReader(w.server.Blobs[string(e.Digest)]), host)
	if err != nil {
		w.t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(plain)
}

func TestPublishBadHostKeys(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	genuine := proto.Clone(w.server.HostKeys[0]).(*fleetv1.HostKeys)
	for name, lie := range map[string]func(*fleetv1.HostKeys){
		"altered keys": func(k *fleetv1.HostKeys) {
			other, _ := age.GenerateX25519Identity()
			k.Keys = bytes.Replace(k.Keys, k.GetKeys()[bytes.Index(k.Keys, []byte("age1")):][:62], []byte(other.Recipient().String()), 1)
		},
		"no mac":         func(k *fleetv1.HostKeys) { k.Mac = nil },
		"other machine":  func(k *fleetv1.HostKeys) { k.Machine = "cinnabar" },
		"no join string": func(k *fleetv1.HostKeys) { k.TokenHash = []byte("short") },
		"fits none": func(k *fleetv1.HostKeys) {
			k.TokenHash, k.Mac = nil, bytes.Repeat([]byte{1}, 32)
		},
		"impossible name": func(k *fleetv1.HostKeys) { k.Machine = "../galena" },
	} {
		t.Run(name, func(t *testing.T) {
			k := proto.Clone(genuine).(*fleetv1.HostKeys)
			lie(k)
			w.server.HostKeys = []*fleetv1.HostKeys{k}
			res := w.published("galena")
			if len(res.Alarms) != 1 || len(res.Recorded) != 0 {
				t.Errorf("alarms %q, recorded %v", res.Alarms, res.Recorded)
			}
			if _, err := os.Stat(filepath.Join(w.dir, "hosts")); err == nil {
				t.Error("a bad proof was recorded")
			}
		})
	}
	w.server.HostKeys = []*fleetv1.HostKeys{genuine}
	w.published("galena")
	// Later, older keys with a proof that was good once.
	w.clock = w.clock.Add(1e9)
	w.enrol("galena")
	w.server.HostKeys = w.server.HostKeys[1:]
	w.published("galena")
	w.server.HostKeys = []*fleetv1.HostKeys{genuine}
	if res := w.published("galena"); len(res.Alarms) != 1 || len(res.Recorded) != 0 {
		t.Errorf("older keys: alarms %q, recorded %v", res.Alarms, res.Recorded)
	}
}

// TestPublishHostKeysAfterLoss: a coordinator that lost its store got the keys
// from the host, and does not know the join string any more.
func TestPublishHostKeysAfterLoss(t *testing.T) {
	w := newWorld(t)
	w.ok("token", "galena")
	w.clock = w.clock.Add(time.Minute)
	w.enrol("galena")
	w.enrol("cinnabar")
	for _, k := range w.server.HostKeys {
		k.TokenHash = nil
	}
	res := w.published("galena")
	if len(res.Alarms) != 0 || len(res.Recorded) != 2 {
		t.Errorf("alarms %q, recorded %v", res.Alarms, res.Recorded)
	}
}

func TestPublishConflict(t *testing.T) {
	w := newWorld(t)
	w.published()
	w.clock = w.clock.Add(time.Second) // Releases of one second have no order.
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "/Commit") {
			w.server.Head, w.server.Before = "r20260301-120000-0000ff", nil
		}
		return nil
	}
	w.fails(exitConflict, "the head is release r20260301-120000-0000ff now", "publish", "galena")
	last := w.releases()[1]
	if last.State != repo.ReleaseAbandoned {
		t.Errorf("release is %s", last.State)
	}
	if n := w.desiredNumber("galena"); n != "1.1" {
		t.Errorf("hosts see %s", n)
	}
	// Its number stays used, and it is nothing to go back to.
	res := w.published("galena")
	gen, _ := w.desired("galena")
	if res.Generations[0].Number != "1.3" || len(gen.Doc.RevertTo) != 1 {
		t.Errorf("after the conflict: %s, revert_to %v", res.Generations[0].Number, gen.Doc.RevertTo)
	}
}

func TestPublishLocked(t *testing.T) {
	w := newWorld(t)
	unlock, err := repo.At(w.dir).Lock()
	if err != nil {
		t.Fatal(err)
	}
	w.fails(exitConflict, "another fleetctl", "publish")
	unlock()
	w.published()
}

func TestPublishUploadResumes(t *testing.T) {
	w := newWorld(t)
	w.write(strings.Repeat("0123456789abcdef", 1<<16), "bundles", "web", "data")
	w.server.CutUploads, w.server.CutAfter = 2, 300<<10
	w.published("galena")
	if len(w.server.Blobs) != 1 || w.server.CutUploads != 0 {
		t.Errorf("%d blobs, %d cuts left", len(w.server.Blobs), w.server.CutUploads)
	}
}

func TestPublishLostAnswer(t *testing.T) {
	w := newWorld(t)
	w.server.LoseCommit = true
	w.published("galena")
	if rel := w.releases()[0]; rel.State != repo.ReleaseCommitted {
		t.Errorf("release is %s", rel.State)
	}
}

func TestPublishUnreachable(t *testing.T) {
	w := newWorld(t)
	w.server.Before = func(string) error { return status.Error(codes.Unavailable, "away") }
	w.fails(exitUnreachable, "cannot be reached", "publish")
	w.fails(exitUnreachable, "cannot be reached", "status", "--coordinator", "127.0.0.1:1")
}

// TestPublishInterrupted ends a publish before each call of each method and
// repeats it: hosts never see half of it, and numbers only go up.
func TestPublishInterrupted(t *testing.T) {
	for _, method := range []string{"ListHostKeys", "ApplyInventory", "GetHead", "StatBlob", "PutBlob", "Stage", "Commit"} {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t)
			w.published()
			w.bundle("v2")
			head := w.server.Head
			ctx, cancel := context.WithCancel(t.Context())
			w.server.Before = func(called string) error {
				if strings.HasSuffix(called, "/"+method) {
					cancel()
					return status.Error(codes.Canceled, "interrupted")
				}
				return nil
			}
			if code, _, errs := w.runContext(ctx, "publish"); code == exitOK {
				t.Fatalf("it went through: %s", errs)
			}
			w.server.Hook(nil) // A call beside the one that was cut short may yet come.
			if w.server.Head != head || w.desiredNumber("galena") != "1.1" || w.desiredNumber("cinnabar") != "1.1" {
				t.Error("hosts see something of it")
			}
			res := w.published()
			if w.desiredNumber("galena") != res.Generations[1].Number || len(w.server.Newest) != 2 {
				t.Errorf("after the repetition: %+v", res)
			}
		})
	}
}
