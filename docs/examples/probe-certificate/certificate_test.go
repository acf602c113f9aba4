package main

import (
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/probe"
)

func TestCheck(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	leaf := server.Certificate()
	dir := t.TempDir()
	file, empty := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "empty.pem")
	chain := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("skipped")})
	chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})...)
	for name, data := range map[string][]byte{file: chain, empty: nil} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := server.Listener.Addr().String()
	const day = 24 * time.Hour
	for _, c := range []struct {
		name   string
		config any
		left   time.Duration // until the certificate ends
		want   fleet.Verdict // empty for an error
		say    string
	}{
		{"file", config{File: file, Days: 7}, 8 * day, fleet.VerdictPass, "8.0 days"},
		{"file, soon over", config{File: file, Days: 7}, 6 * day, fleet.VerdictFail, "want 7"},
		{"default", map[string]string{"file": file}, 6 * day, fleet.VerdictFail, "want 7"},
		{"no days", map[string]any{"file": file, "days": 0}, time.Minute, fleet.VerdictPass, "0.0 days"},
		{"over", config{File: file}, -day, fleet.VerdictFail, "-1.0 days"},
		{"not yet", config{File: file}, leaf.NotAfter.Sub(leaf.NotBefore) + day, fleet.VerdictFail, "not good before"},
		{"served", config{Address: address, Days: 7}, 8 * day, fleet.VerdictPass, "8.0 days"},
		{"served, soon over", config{Address: address, Name: "example.com", Days: 7}, day, fleet.VerdictFail, "want 7"},
		{"nobody serves", config{Address: "127.0.0.1:1"}, day, fleet.VerdictFail, "refused"},
		{"no file", config{File: filepath.Join(dir, "none")}, day, fleet.VerdictFail, "no such file"},
		{"nothing in it", config{File: empty}, day, fleet.VerdictFail, "no certificate"},
		{"neither", config{}, day, "", "either"},
		{"both", config{File: file, Address: address}, day, "", "either"},
		{"days", config{File: file, Days: -1}, day, "", "config.days"},
		{"unknown key", map[string]string{"path": file}, day, "", "unknown field"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, err := json.Marshal(c.config)
			if err != nil {
				t.Fatal(err)
			}
			p := &certificate{now: func() time.Time { return leaf.NotAfter.Add(-c.left) }}
			res, err := p.Check(t.Context(), probe.Request{Profile: fleet.System, Config: text})
			said := res.Detail
			if err != nil {
				said = err.Error()
			}
			if (err != nil) != (c.want == "") || res.Verdict != c.want || !strings.Contains(said, c.say) {
				t.Errorf("got %+v, %v; want %q that says %q", res, err, c.want, c.say)
			}
		})
	}
}
