package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/witness"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// peer is another host of the fleet.
type peer struct {
	h           *host
	certificate tls.Certificate
	address     string
	// out is whether it reaches the coordinator no longer.
	out, busy atomic.Bool
	stop      func()
}

func newPeer(h *host, m fleet.MachineName) *peer {
	h.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		h.t.Fatal(err)
	}
	der, err := h.fleet.CA.Issue(pki.HostIdentity(agenttest.FleetID, m), key.Public(), time.Now(), time.Hour)
	if err != nil {
		h.t.Fatal(err)
	}
	return &peer{h: h, certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func (p *peer) own() (*tls.Certificate, error) { return &p.certificate, nil }

func (p *peer) cas() []*x509.Certificate { return []*x509.Certificate{p.h.fleet.CA.Cert} }

// answers has it be a witness, until stop or the end of the test.
func (p *peer) answers() {
	p.h.t.Helper()
	address := p.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address) //nolint:noctx // A test's.
	if err != nil {
		p.h.t.Fatal(err)
	}
	p.address = l.Addr().String()
	s := &witness.Server{
		TLS: pki.WitnessServerTLS(pki.ServerConfig{Certificate: p.own, CAs: p.cas, Fleet: agenttest.FleetID, Now: time.Now}),
		Reach: func(context.Context) error {
			if p.busy.Load() {
				return witness.ErrBusy
			}
			if p.out.Load() {
				return errors.New("connection refused")
			}
			return nil
		},
		Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	p.stop = func() {
		cancel()
		if err := <-done; err != nil {
			p.h.t.Error(err)
		}
		p.stop = func() {}
	}
	p.h.t.Cleanup(func() { p.stop() })
}

// watches has a generation name a witness.
func (p *peer) watches(coordinator bool) func(*fleet.Generation) {
	return func(g *fleet.Generation) {
		g.Policy.VerifyDeadline = fleet.Duration(2500 * time.Millisecond)
		g.Reach = &fleet.Reach{Witnesses: []fleet.Witness{{Machine: "galena", Address: p.address}}, Coordinator: coordinator}
	}
}

// midway publishes a second generation, and has something happen in the midst of its
// activation.
func (p *peer) midway(coordinator bool, happens func()) fleet.Ref {
	h := p.h
	h.t.Helper()
	goOn := filepath.Join(h.t.TempDir(), "on")
	next := h.publish(2, "next", gate(goOn), p.watches(coordinator))
	waitLocal(h.t, h, fleet.StateActivating)
	happens()
	open(h.t, goOn)
	return next
}

func goneBack(p control.Profile) bool { return p.State == fleet.StateRolledBack }

// TestWitnessed: a coordinator that goes away in the midst of an activation takes no host
// back that others still see.
func TestWitnessed(t *testing.T) {
	h := newHost(t)
	p := newPeer(h, "galena")
	p.answers()
	h.start()
	h.confirmed(1, "good")
	next := p.midway(false, func() {
		h.coord.Stop()
		p.out.Store(true)
	})
	if q := waitLocal(t, h, fleet.StateVerified); q.Current != next || len(q.Refused) != 0 {
		t.Errorf("status: %+v", q)
	}
	h.expectServing("next")
	h.coord.Start()
	h.coord.WaitState(fleet.StateConfirmed, next)
}

// TestNotWitnessed: by nobody, by one that was not there before, or where what is in the
// coordinator's place is not it.
func TestNotWitnessed(t *testing.T) {
	for name, row := range map[string]struct {
		before bool
		then   func(*peer)
	}{
		"the witness is out of reach too": {true, func(p *peer) { p.stop() }},
		"the witness came only then":      {false, func(p *peer) { p.answers() }},
		"the witness reaches it":          {true, func(p *peer) { p.out.Store(false) }},
		"the witness can't tell":          {true, func(p *peer) { p.busy.Store(true) }},
		"something else is in the coordinator's place": {true, func(p *peer) {
			l, err := net.Listen("tcp", p.h.coord.Address) //nolint:noctx // A test's.
			if err != nil {
				p.h.t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_ = conn.Close()
				}
			}()
			p.h.t.Cleanup(func() { _ = l.Close(); <-done })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			p := newPeer(h, "galena")
			p.answers()
			if !row.before {
				p.stop()
			}
			h.start()
			good := h.confirmed(1, "good")
			p.midway(false, func() {
				h.coord.Stop()
				p.out.Store(true)
				row.then(p)
			})
			q := waitProfile(t, h, "one that went back", goneBack)
			if q.Current != good || len(q.Refused) != 1 {
				t.Errorf("status: %+v", q)
			}
			h.expectServing("good")
		})
	}
}

// TestCoordinatorsHost: that it reaches its own coordinator says nothing; others have to.
func TestCoordinatorsHost(t *testing.T) {
	for name, out := range map[string]bool{"reached": false, "out of reach": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			p := newPeer(h, "galena")
			p.answers()
			h.start()
			good := h.confirmed(1, "good")
			next := p.midway(true, func() { p.out.Store(out) })
			if !out {
				h.coord.WaitState(fleet.StateConfirmed, next)
				return
			}
			q := waitProfile(t, h, "one that went back", goneBack)
			// Nor does what it went back to let anybody in: the test breaks that for good.
			if q.Reason.Code != fleet.ReasonRollbackUnverified || q.Current != good ||
				!strings.Contains(q.Reason.Message, "from outside: galena: the witness says no: connection refused") {
				t.Errorf("status: %+v", q)
			}
			p.out.Store(false)
		})
	}
}

// TestIsWitness: a host answers where its newest generation says so, and nowhere else.
func TestIsWitness(t *testing.T) {
	h := newHost(t)
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // A test's.
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	one, two := free(), free()
	at := func(address string) func(*fleet.Generation) {
		return func(g *fleet.Generation) { g.Reach = &fleet.Reach{Answers: address} }
	}
	p := newPeer(h, "galena")
	config := pki.WitnessClientTLS(pki.ClientConfig{Certificate: p.own, CAs: p.cas, Fleet: agenttest.FleetID, Now: time.Now}, agenttest.Machine)
	answers := func(address string, ask witness.Ask) bool {
		return witness.Put(t.Context(), config, address, ask) == nil
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	h.start()
	h.coord.WaitState(fleet.StateConfirmed, h.publish(1, "one", "", at(one)))
	eventually("it answers", func() bool { return answers(one, witness.Here) && answers(one, witness.Coordinator) })
	h.coord.WaitState(fleet.StateConfirmed, h.publish(2, "two", "", at(two)))
	eventually("it answers elsewhere", func() bool { return answers(two, witness.Here) && !answers(one, witness.Here) })
	h.coord.WaitState(fleet.StateConfirmed, h.publish(3, "three", ""))
	eventually("it answers no longer", func() bool { return !answers(two, witness.Here) })
}
