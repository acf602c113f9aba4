package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestFailedActivationSaysWhy: what it printed last is in the reason, unless it
// may be a secret.
func TestFailedActivationSaysWhy(t *testing.T) {
	const password = "correct horse battery"
	for name, c := range map[string]struct{ script, want, not string }{
		"printed": {
			script: `echo starting; printf 'disk \033[31mfull\n\n  \n' >&2; exit 3`, want: "ended with exit code 3: disk [31mfull", not: "starting",
		},
		"long":   {script: "head -c 1000 /dev/zero | tr '\\0' x; exit 3", want: ": " + strings.Repeat("x", outputLine) + "…", not: strings.Repeat("x", outputLine+1)},
		"silent": {script: "exit 3", want: "ended with exit code 3"},
		"secret": {script: `echo "cannot log in with $(cat "$FLEET_SECRETS/db/password")"; exit 3`, want: "in fleet-agent logs only", not: "log in with"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			good := h.confirmed(1, "good")
			recipient, err := age.ParseX25519Recipient(h.coord.HostKeys().Age)
			if err != nil {
				t.Fatal(err)
			}
			env, ref, sealed := h.fleet.SealSecrets(recipient, map[string]string{"db/password": password})
			g, blob := h.generation(2, "bad", c.script)
			g.Secrets = ref
			genv, _ := h.fleet.Seal(g)
			h.coord.Publish(genv, env, append(sealed, blob)...)
			got := h.coord.WaitState(fleet.StateRolledBack, good).Reason
			if got.Code != fleet.ReasonActivationFailed || !strings.Contains(got.Message, c.want) || c.not != "" && strings.Contains(got.Message, c.not) {
				t.Errorf("reason: %+v", got)
			}
			for _, r := range h.coord.Reports() {
				for _, tr := range r.Transitions {
					if strings.Contains(tr.Reason.Message, password) {
						t.Errorf("told the coordinator: %+v", tr)
					}
				}
			}
		})
	}
}

func TestLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if line, err := lastLine(path); line != "" || err != nil {
		t.Errorf("no log: %q, %v", line, err)
	}
	for content, want := range map[string]string{
		"": "", "\n \r\n": "", "one\ntwo": "two", "one\ntwo\n\n": "two", "10 %\r20 %\r": "20 %",
		strings.Repeat("long\n", outputTail) + "end": "end",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if line, err := lastLine(path); line != want || err != nil {
			t.Errorf("%.20q: %q, %v", content, line, err)
		}
	}
}
