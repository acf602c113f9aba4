package agent

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// TestDroppedCA: a host whose certificate is of a CA that the trust root lists no
// longer renews as soon as it has the root, though it renewed just before; the next
// CA is known to it by then.
func TestDroppedCA(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	next, err := pki.NewCA(agenttest.FleetID, h.fleet.Now())
	if err != nil {
		t.Fatal(err)
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for began := time.Now(); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	roots := func(cas ...*pki.CA) {
		h.fleet.Root.CAs = nil
		for _, ca := range cas {
			h.fleet.Root.CAs = append(h.fleet.Root.CAs, ca.Cert.Raw)
		}
		h.fleet.NextRoot()
		version := h.fleet.Root.Version
		h.coord.HandOutRoots()
		wait("the trust root", func() bool { return h.agent.journal.State().Root.Version == version })
	}
	roots(h.fleet.CA, next)
	h.coord.Lie(agenttest.Lie{Answer: func(_ string, req, honest any, err error) (any, error) {
		m, ok := honest.(*fleetv1.RenewResponse)
		r, asked := req.(*fleetv1.RenewRequest)
		if !ok || !asked || err != nil {
			return honest, err
		}
		pub, err := pki.ParseCSR(r.GetCsr())
		if err != nil {
			return nil, err
		}
		m.Certificate, err = next.Issue(pki.HostIdentity(agenttest.FleetID, agenttest.Machine), pub, h.fleet.Now(), pki.HostTTL)
		m.Ca = append(m.Ca, next.Cert.Raw)
		return m, err
	}})
	// What the coordinator shows once it has the kit for it.
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := next.Issue(pki.CoordinatorIdentity(agenttest.FleetID, "cinnabar"), key.Public(), h.fleet.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	h.coord.Identify(tls.Certificate{Certificate: [][]byte{der, next.Cert.Raw}, PrivateKey: key})
	if n := h.coord.Calls("Renew"); n != 0 {
		t.Fatalf("renewed %d times before anything was dropped", n)
	}
	// The looks at the time that follow on the start and on work are over, or it
	// might be one of those.
	time.Sleep(2*quietPause + time.Second)
	roots(next)
	// The agent looks at the time once a minute.
	wait("a certificate of the next CA", func() bool {
		c, err := h.agent.identity.Certificate()
		return err == nil && c.Leaf.CheckSignatureFrom(next.Cert) == nil
	})
}
