package fleetctl

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// reporter makes a key and records it as galena's.
func (w *world) reporter() release.Signer {
	w.t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	keys := pki.NewHostKeys("galena", pub, "")
	if err := repo.At(w.dir).WriteHost(&repo.HostRecord{Machine: "galena", Report: keys.Report}); err != nil {
		w.t.Fatal(err)
	}
	return release.NewSigner(key)
}

// reports has the coordinator show galena with what it reports.
func (w *world) reports(r fleet.Report, by release.Signer) {
	w.t.Helper()
	env, err := release.SealReport(r, by)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server.Hosts = []*fleetv1.Host{{
		Machine: &fleetv1.Machine{Name: "galena", Class: "linux"}, Enrolled: true, Connected: true, Report: env,
	}}
}

func of(refs ...fleet.Ref) fleet.Report {
	r := fleet.Report{Fleet: "first", Machine: "galena"}
	for i, ref := range refs {
		r.Transitions = append(r.Transitions, fleet.Transition{Seq: uint64(i) + 1, Profile: fleet.System, State: fleet.StateVerified, Ref: ref})
	}
	return r
}

func TestStatusStrangeDigest(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.published()
	by := w.reporter()
	rel := w.releases()[0]
	var known fleet.Ref
	for i := range rel.Generations {
		if rel.Generations[i].Machine == "galena" {
			known = rel.Generations[i].Ref(rel.ID)
		}
	}
	w.reports(of(known), by)
	if out := w.ok("status"); known.Digest == "" || strings.Contains(out, "ALARM") || strings.Contains(out, "warning") {
		t.Errorf("a published generation %s:\n%s", known.Digest, out)
	}

	strange := fleet.Ref{Number: known.Number, Digest: fleet.DigestOf([]byte("stolen")), Release: "r\x1b[31m"}
	current := fleet.Report{Fleet: "first", Machine: "galena", Profiles: []fleet.ProfileStatus{{Profile: fleet.System, Current: strange}}}
	for name, r := range map[string]fleet.Report{"accepted once": of(known, strange), "runs now": current} {
		w.reports(r, by)
		for _, args := range [][]string{{"status"}, {"status", "galena"}} {
			code, out, errs := w.run(args...)
			if code != exitRefused || !strings.Contains(out, "ALARM: galena system accepted generation "+known.Number.String()) || strings.Contains(out, "\x1b") {
				t.Errorf("%s, %v: exit %d\n%q", name, args, code, out)
			}
			for _, want := range []string{"stolen key", "git pull", "docs/runbooks.md"} {
				if !strings.Contains(errs, want) {
					t.Errorf("%s, %v: no %q in\n%s", name, args, want, errs)
				}
			}
		}
		code, out, _ := w.run("status", "-o", "json")
		var res statusResult
		if err := json.Unmarshal([]byte(out), &res); err != nil {
			t.Fatal(err)
		}
		if code != exitRefused || !res.Digests.Releases || len(res.Digests.Alarms) != 1 || res.Digests.Alarms[0].Digest != strange.Digest {
			t.Errorf("%s: exit %d, %+v", name, code, res.Digests)
		}
	}

	if err := os.RemoveAll(filepath.Join(w.dir, "releases")); err != nil {
		t.Fatal(err)
	}
	if out := w.ok("status"); !strings.Contains(out, "no releases/ here") {
		t.Errorf("nothing to compare with:\n%s", out)
	}
}

// TestStatusManyStrangeDigests: whoever has a host can't fill the screen.
func TestStatusManyStrangeDigests(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.published()
	var refs []fleet.Ref
	for i := range maxStrange + 5 {
		refs = append(refs, fleet.Ref{Digest: fleet.DigestOf(fmt.Append(nil, i))})
	}
	w.reports(of(append(refs, refs...)...), w.reporter())
	code, out, _ := w.run("status")
	if n := strings.Count(out, "ALARM: galena"); code != exitRefused || n != maxStrange || !strings.Contains(out, "and 5 more") {
		t.Errorf("exit %d, %d alarms\n%s", code, n, out)
	}
}

// TestStatusUnverified: what the host did not sign is neither an alarm nor
// silence.
func TestStatusUnverified(t *testing.T) {
	w := newWorld(t)
	w.enrol("galena")
	w.published()
	by := w.reporter()
	_, other, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	strange := fleet.Ref{Digest: fleet.DigestOf([]byte("stolen"))}
	elsewhere := of(strange)
	elsewhere.Machine = "cinnabar"
	for name, c := range map[string]struct {
		set  func()
		want string
	}{
		"signed by another key":    {func() { w.reports(of(strange), release.NewSigner(other)) }, "opening report"},
		"another machine's":        {func() { w.reports(elsewhere, by) }, "its report is of"},
		"held back":                {func() { w.hosts() }, "shows no report"},
		"no key of it is known":    {func() { w.reports(of(strange), by); w.server.Hosts[0].Machine.Name = "pyrite" }, "no report key of it"},
		"no envelope":              {func() { w.reports(of(), by); w.server.Hosts[0].Report = []byte("{}") }, "opening report"},
		"a name that can't be one": {func() { w.reports(of(), by); w.server.Hosts[0].Machine.Name = "../x" }, "can't be compared"},
	} {
		c.set()
		out := w.ok("status")
		if strings.Contains(out, "ALARM") || !strings.Contains(out, "can't be compared with releases/") || !strings.Contains(out, c.want) {
			t.Errorf("%s:\n%s", name, out)
		}
	}
	w.reports(of(), by)
	w.write(`{"machine":"galena","report":"x"}`, "hosts", "galena.json")
	if code, _, errs := w.run("status"); code != exitError || !strings.Contains(errs, "hosts/galena.json") {
		t.Errorf("a damaged record: exit %d\n%s", code, errs)
	}
}
