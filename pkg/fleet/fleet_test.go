package fleet_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestNames(t *testing.T) {
	parse := map[string]func(string) error{
		"fleet":    func(s string) error { _, err := fleet.ParseFleetID(s); return err },
		"machine":  func(s string) error { _, err := fleet.ParseMachineName(s); return err },
		"profile":  func(s string) error { _, err := fleet.ParseProfileName(s); return err },
		"operator": func(s string) error { _, err := fleet.ParseOperatorName(s); return err },
		"release":  func(s string) error { _, err := fleet.ParseReleaseID(s); return err },
		"secret":   func(s string) error { _, err := fleet.ParseSecretName(s); return err },
		"digest":   func(s string) error { _, err := fleet.ParseDigest(s); return err },
		"number":   func(s string) error { _, err := fleet.ParseNumber(s); return err },
		"class":    func(s string) error { _, err := fleet.ParseClass(s); return err },
		"mode":     func(s string) error { _, err := fleet.ParseMode(s); return err },
		"role":     func(s string) error { _, err := fleet.ParseRole(s); return err },
	}
	for kind, good := range map[string][]string{
		"fleet": {"first", "a", "a-1"}, "machine": {"cinnabar", "m1"}, "profile": {"system", "home/tara"},
		"operator": {"cameron", "a_b"}, "release": {"r20261123-120000-abc"}, "secret": {"wifi.fleet", "OPENROUTER_API_KEY"},
		"digest": {string(fleet.DigestOf(nil))}, "number": {"0", "1.7"}, "class": {"linux"}, "mode": {"observe"}, "role": {"secrets-admin"},
	} {
		for _, s := range good {
			if err := parse[kind](s); err != nil {
				t.Errorf("%s %q: %v", kind, s, err)
			}
		}
	}
	hostile := []string{
		"", "a/b", "..", "../x", ".", "a\x00b", "a b", "ä", "-a", strings.Repeat("a", 500), "a\nb", "home/", "home/../x", "system/x",
	}
	for kind, p := range parse {
		for _, s := range hostile {
			if err := p(s); !errors.Is(err, fleet.ErrName) {
				t.Errorf("%s %.20q: %v", kind, s, err)
			} else if len(err.Error()) > 300 {
				t.Errorf("%s: the error repeats all of a long name", kind)
			}
		}
	}
	for _, kind := range []string{"fleet", "machine", "operator", "profile", "class", "mode", "role"} {
		if err := parse[kind]("Upper"); !errors.Is(err, fleet.ErrName) {
			t.Errorf("%s in upper case: %v", kind, err)
		}
	}
}

func TestNumberOrder(t *testing.T) {
	gen := rapid.Custom(func(t *rapid.T) fleet.Number {
		return fleet.Number{Epoch: rapid.Uint64Range(0, 3).Draw(t, "epoch"), Seq: rapid.Uint64Range(0, 3).Draw(t, "seq")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := gen.Draw(t, "a"), gen.Draw(t, "b"), gen.Draw(t, "c")
		if a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) {
			t.Fatal("not antisymmetric")
		}
		if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 {
			t.Fatal("not transitive")
		}
		if back, err := fleet.ParseNumber(a.String()); err != nil || back != a {
			t.Fatal(back, err)
		}
	})
}

func TestRoles(t *testing.T) {
	all := []fleet.Role{fleet.RoleViewer, fleet.RoleDeployer, fleet.RoleApprover, fleet.RoleSecretsAdmin, fleet.RoleAdmin}
	want := map[fleet.Role][]fleet.Role{
		fleet.RoleViewer:       {fleet.RoleViewer},
		fleet.RoleDeployer:     {fleet.RoleViewer, fleet.RoleDeployer},
		fleet.RoleApprover:     {fleet.RoleViewer, fleet.RoleApprover},
		fleet.RoleSecretsAdmin: {fleet.RoleViewer, fleet.RoleSecretsAdmin},
		fleet.RoleAdmin:        all,
	}
	for _, r := range all {
		var got []fleet.Role
		for _, need := range all {
			if r.Includes(need) {
				got = append(got, need)
			}
		}
		if diff := cmp.Diff(want[r], got); diff != "" {
			t.Errorf("%s: %s", r, diff)
		}
	}
	if fleet.Role("").Includes(fleet.RoleViewer) {
		t.Error("nobody may view")
	}
}

func TestProbeValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		p  fleet.Probe
		ok bool
	}{
		"exec":              {fleet.Probe{Kind: fleet.ProbeExec, Argv: []string{"./check"}}, true},
		"exec without argv": {fleet.Probe{Kind: fleet.ProbeExec}, false},
		"http":              {fleet.Probe{Kind: fleet.ProbeHTTP, URL: "http://127.0.0.1:1/x", Status: 204}, true},
		"http to a file":    {fleet.Probe{Kind: fleet.ProbeHTTP, URL: "file:///etc/passwd"}, false},
		"http status 42":    {fleet.Probe{Kind: fleet.ProbeHTTP, URL: "http://a/", Status: 42}, false},
		"tcp":               {fleet.Probe{Kind: fleet.ProbeTCP, Address: "[::1]:22"}, true},
		"tcp without port":  {fleet.Probe{Kind: fleet.ProbeTCP, Address: "localhost"}, false},
		"systemd":           {fleet.Probe{Kind: fleet.ProbeSystemd, Unit: "nginx.service"}, true},
		"systemd option":    {fleet.Probe{Kind: fleet.ProbeSystemd, Unit: "--host=x"}, false},
		"unknown":           {fleet.Probe{Kind: "icmp"}, false},
	} {
		if err := tc.p.Validate(); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := fleet.Probe{Name: "a", Kind: fleet.ProbeTCP, Address: "a:1"}
	if err := fleet.ValidateProbes([]fleet.Probe{p, p}); !errors.Is(err, fleet.ErrInvalid) {
		t.Error("two probes of one name")
	}
	if err := fleet.ValidateProbes(make([]fleet.Probe, fleet.MaxProbes+1)); !errors.Is(err, fleet.ErrInvalid) {
		t.Error("too many probes")
	}
}

func TestDuration(t *testing.T) {
	var d fleet.Duration
	for _, bad := range []string{`5`, `"5"`, `"-1s"`, `"x"`, `null1`} {
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	if err := json.Unmarshal([]byte(`"1m30s"`), &d); err != nil || time.Duration(d) != 90*time.Second {
		t.Fatal(d, err)
	}
	b, err := json.Marshal(d)
	if err != nil || string(b) != `"1m30s"` {
		t.Fatal(string(b), err)
	}
	if fleet.Duration(0).Or(time.Second) != time.Second || d.Or(time.Second) != 90*time.Second {
		t.Error("Or")
	}
}

func FuzzParseNumber(f *testing.F) {
	f.Add("1.2")
	f.Add("18446744073709551616.1")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := fleet.ParseNumber(s)
		if err != nil {
			return
		}
		if back, err := fleet.ParseNumber(n.String()); err != nil || back != n {
			t.Fatalf("%q became %v", s, back)
		}
	})
}
