package fleetctl

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/pem"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// TestHasOnly: whom the end of a CA shuts out, by what the coordinator saw last and
// by what the repository would give them.
func TestHasOnly(t *testing.T) {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	before, after := newTestCA(t, now), newTestCA(t, now)
	old := hex.EncodeToString(before.Cert.SubjectKeyId)
	next := hex.EncodeToString(after.Cert.SubjectKeyId)
	seen, expires, expired := now.Add(-time.Hour), now.Add(time.Hour), now.Add(-time.Minute)
	for name, c := range map[string]struct {
		of      client.OperatorStatus
		record  *pki.CA // who issued the repository's certificate
		removed bool
		want    bool
	}{
		"called with the old one":                           {of: client.OperatorStatus{LastSeen: seen, Expires: expires, CA: old}, record: before, want: true},
		"called with the new one":                           {of: client.OperatorStatus{LastSeen: seen, Expires: expires, CA: next}, record: before},
		"called, nobody knows with what":                    {of: client.OperatorStatus{LastSeen: seen, Expires: expires}, want: true},
		"what was called with has ended":                    {of: client.OperatorStatus{LastSeen: seen, Expires: expired, CA: old}},
		"called with the old one and was added anew":        {of: client.OperatorStatus{LastSeen: seen, Expires: expires, CA: old}, record: after},
		"never called":                                      {record: before, want: true},
		"never called, of the new one":                      {record: after},
		"never called, and has no certificate that we know": {},
		"removed": {of: client.OperatorStatus{LastSeen: seen, Expires: expires, CA: old}, record: before, removed: true},
	} {
		t.Run(name, func(t *testing.T) {
			c.of.Name, c.of.Removed = "dana", c.removed
			var records []repo.OperatorRecord
			if c.record != nil {
				records = append(records, repo.OperatorRecord{Name: "dana", Certificate: operatorCertificate(t, c.record, now)})
			}
			if got := hasOnly(c.of, records, old, now); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func newTestCA(t *testing.T, now time.Time) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(testFleetID, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func operatorCertificate(t *testing.T, ca *pki.CA, now time.Time) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(pki.OperatorIdentity(testFleetID, "dana"), pub, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

const testFleetID = fleet.FleetID("2f6c1e1c-6a0c-4a0e-9f5e-1d2b3c4d5e6f")
