package fleetctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/fleetctl/internal/fakeagent"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// request makes a newcomer's request, in a file.
func (w *world) request(args ...string) string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "request")
	text := w.ok(append([]string{"operator", "request"}, args...)...)
	if strings.Contains(text, "PRIVATE") || !strings.Contains(text, "CERTIFICATE REQUEST") {
		w.t.Fatalf("the request is\n%s", text)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// TestOperatorJoins: the newcomer makes the key, the admin adds them, and after
// a pull they are in.
func TestOperatorJoins(t *testing.T) {
	w := newWorld(t)
	ada := w.person("ada")
	ada.fails(exitError, "no age identity", "status")
	file := ada.request()
	if again := ada.ok("operator", "request"); again != ada.ok("operator", "request") {
		t.Error("the second request is another one")
	}
	w.golden("operator-add", w.ok("operator", "add", "ada", "--role", "deployer", "--request", file))
	ada.fails(exitError, "no operator identity", "status")
	ada.pull(w)
	ada.ok("status")
	if got := w.server.Callers[len(w.server.Callers)-1]; got != "operator/ada" {
		t.Errorf("the caller is %s", got)
	}
	w.ok("operator", "add", "ada", "--role", "viewer", "-o", "json")
	w.server.OperatorStates["vic"] = &fleetv1.OperatorStatus{Operator: &fleetv1.Operator{Name: "vic", Role: "viewer"}}
	w.golden("operator-list", w.ok("operator", "list"))
	w.golden("operator-list-json", keyDigits.ReplaceAllString(w.ok("operator", "list", "-o", "json"), "<key>"))
	w.golden("operator-help", w.ok("operator", "--help"))

	w.golden("operator-remove", w.ok("operator", "remove", "ada", "--reason", "left"))
	rec, err := repo.At(w.dir).Operator("ada")
	if err != nil || !rec.Removed || rec.Certificate != "" {
		t.Errorf("%+v, %v", rec, err)
	}
	if out := w.ok("operator", "list"); !strings.Contains(out, "removed: left") {
		t.Errorf("operator list:\n%s", out)
	}
	// A publish hands the removal over.
	w.ok("publish")
	found := false
	for _, o := range w.server.Operators {
		found = found || o.GetName() == "ada" && o.GetRemoved()
	}
	if !found {
		t.Errorf("operators handed over: %v", w.server.Operators)
	}
}

func TestOperatorOffline(t *testing.T) {
	w := newWorld(t)
	ada := w.person("ada")
	file := ada.request()
	w.ok("operator", "add", "ada", "--role", "admin", "--request", file, "--offline", "--coordinator", "127.0.0.1:1")
	ada.pull(w)
	ada.ok("status")
	w.ok("operator", "add", "ada", "--role", "viewer", "--offline")
	w.ok("kit")
	for _, o := range w.kit().Operators {
		if o.Name == "ada" && (o.Role != "viewer" || o.Key == "") {
			t.Errorf("the kit has %+v", o)
		}
	}
}

// TestOperatorKeyInAgent: no file has the private key.
func TestOperatorKeyInAgent(t *testing.T) {
	w := newWorld(t)
	a := fakeagent.Start(t)
	ada := w.person("ada")
	ada.agent = a.Socket
	file := ada.request("--key", "ssh-agent:"+fingerprint(a.AddPlain(t, "ada")))
	w.ok("operator", "add", "ada", "--role", "viewer", "--request", file)
	ada.pull(w)
	ada.ok("status")
	ada.agent = ""
	ada.fails(exitError, "SSH_AUTH_SOCK", "status")
	b := w.person("bob")
	b.agent = a.Socket
	b.fails(exitError, "security key cannot", "operator", "request", "--key", "ssh-agent:"+fingerprint(a.AddSecurityKey(t, "ssh:", "x")))
}

func TestOperatorRenewal(t *testing.T) {
	w := newWorld(t)
	if out := w.ok("operator", "renew"); !strings.Contains(out, "2028-02-29") {
		t.Errorf("renewed too early:\n%s", out)
	}
	w.clock = w.clock.AddDate(1, 1, 0)
	w.ok("status") // renews on the way
	if out := w.ok("operator", "renew"); !strings.Contains(out, "2029-03-31") {
		t.Errorf("not renewed:\n%s", out)
	}
	w.server.Before = func(method string) error {
		if strings.HasSuffix(method, "RenewOperator") {
			return status.Error(codes.Unavailable, "busy")
		}
		return nil
	}
	w.clock = w.clock.AddDate(1, 11, 15)
	if _, _, errs := w.run("status"); !strings.Contains(errs, "warning: your operator certificate ends") {
		t.Errorf("no warning: %s", errs)
	}
}

func TestOperatorRefusals(t *testing.T) {
	w := newWorld(t)
	ada := w.person("ada")
	file := ada.request()
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		code int
		text string
		args []string
	}{
		{exitUsage, "role", []string{"operator", "add", "ada", "--role", "king"}},
		{exitUsage, "malformed name", []string{"operator", "add", "../x", "--role", "viewer"}},
		{exitUsage, "no such file", []string{"operator", "add", "ada", "--role", "viewer", "--request", "nothing"}},
		{exitError, "no operator's request", []string{"operator", "add", "ada", "--role", "viewer", "--request", junk}},
		{exitError, "no operator's request", []string{"operator", "add", "ada", "--role", "viewer", "--request", "-"}},
		{exitError, "no certificate yet", []string{"operator", "add", "ada", "--role", "viewer", "--offline"}},
		{exitUsage, "reason", []string{"operator", "remove", "ada", "--reason", " "}},
		{exitError, "nobody removes themselves", []string{"operator", "remove", "cameron", "--reason", "x"}},
		{exitRefused, "unknown operator", []string{"operator", "remove", "nobody", "--reason", "x"}},
		{exitError, "already", []string{"operator", "request", "--key", "ssh-agent:SHA256:x"}},
	} {
		w.fails(tc.code, tc.text, tc.args...)
	}
	if rec, err := repo.At(w.dir).Operator("nobody"); rec != nil || err != nil {
		t.Errorf("what was refused is recorded: %+v, %v", rec, err)
	}
	for name, alter := range map[string]func(*fleetv1.AddOperatorResponse){
		"another role":   func(r *fleetv1.AddOperatorResponse) { r.Operator.Role = "admin" },
		"another key":    func(r *fleetv1.AddOperatorResponse) { r.Operator.Key = strings.Repeat("a", 64) },
		"another name":   func(r *fleetv1.AddOperatorResponse) { r.Operator.Name = "eve" },
		"no certificate": func(r *fleetv1.AddOperatorResponse) { r.Certificate = []byte("x") },
	} {
		w.server.AlterOperator = alter
		if code, _, errs := w.run("operator", "add", "ada", "--role", "viewer", "--request", file); code != exitRefused {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
	}
	w.server.AlterOperator = nil
	w.server.Skew = 3 * time.Hour // Its records would outlast every later change.
	w.fails(exitRefused, "record of ada", "operator", "add", "ada", "--role", "viewer", "--request", file)

	// A role in two places.
	w.server.Skew = 0
	w.write(strings.Replace(fleetText, "cameron: {role: admin}", "cameron: {role: viewer}", 1), repo.FleetFile)
	w.fails(exitError, "two roles", "status")
	w.write(fleetText, repo.FleetFile)
	w.write("{}", "trust", "operators", "eve.json")
	w.fails(exitError, "damaged", "status")
}

func TestOperatorRemoveUnreachable(t *testing.T) {
	w := newWorld(t)
	ada := w.person("ada")
	w.ok("operator", "add", "ada", "--role", "viewer", "--request", ada.request())
	w.fails(exitUnreachable, "recorded in trust/operators", "operator", "remove", "ada", "--reason", "left", "--coordinator", "127.0.0.1:1", "--timeout", "2s")
	if out := w.ok("operator", "list"); !strings.Contains(out, "removed here, in force there") {
		t.Errorf("operator list:\n%s", out)
	}
	w.ok("operator", "remove", "ada", "--reason", "left")
}
