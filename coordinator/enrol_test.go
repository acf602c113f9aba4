package coordinator_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestTokens(t *testing.T) {
	w := newWorld(t)
	t.Run("unknown", func(t *testing.T) {
		j := w.join("galena")
		j.Secret = bytes.Repeat([]byte{7}, 32)
		wantRefusal(t, w.newAgent("galena", "i1").enrol(j), codes.Unauthenticated, refusal.TokenUnknown)
	})
	t.Run("wrong machine", func(t *testing.T) {
		wantRefusal(t, w.newAgent("pyrite", "i1").enrol(w.join("galena")), codes.PermissionDenied, refusal.TokenMachine)
		if n, alarm := count(w.events("galena"), "token-wrong-machine"); n != 1 || !alarm {
			t.Errorf("%d events, alarm %t", n, alarm)
		}
	})
	t.Run("expired", func(t *testing.T) {
		j := w.join("galena")
		w.clock.advance(pki.TokenTTL + time.Minute)
		wantRefusal(t, w.newAgent("galena", "i1").enrol(j), codes.Unauthenticated, refusal.TokenExpired)
	})
	t.Run("same key again", func(t *testing.T) {
		j := w.join("galena")
		a := w.newAgent("galena", "i1")
		check(t, a.enrol(j))
		first := a.cert.Certificate[0]
		check(t, a.enrol(j))
		if !bytes.Equal(first, a.cert.Certificate[0]) {
			t.Error("another certificate for the same token and key")
		}
		w.clock.advance(pki.TokenTTL + time.Minute)
		wantRefusal(t, a.enrol(j), codes.Unauthenticated, refusal.TokenExpired)
	})
	t.Run("other key", func(t *testing.T) {
		j := w.join("pyrite")
		check(t, w.newAgent("pyrite", "i1").enrol(j))
		wantRefusal(t, w.newAgent("pyrite", "i2").enrol(j), codes.Unauthenticated, refusal.TokenUsed)
		if n, alarm := count(w.events("pyrite"), "token-reused"); n != 1 || !alarm {
			t.Errorf("%d events, alarm %t", n, alarm)
		}
	})
	t.Run("malformed", func(t *testing.T) {
		j := w.join("galena")
		a := w.newAgent("galena", "i1")
		e := fleetv1.NewEnrolmentServiceClient(w.dial(pki.EnrolTLS(fleetID, j.CA, w.clock.now)))
		for name, edit := range map[string]func(*fleetv1.EnrolRequest){
			"machine":          func(r *fleetv1.EnrolRequest) { r.Machine = "../galena" },
			"short token":      func(r *fleetv1.EnrolRequest) { r.Token = r.GetToken()[:31] },
			"no instance":      func(r *fleetv1.EnrolRequest) { r.InstanceId = "" },
			"no mac":           func(r *fleetv1.EnrolRequest) { r.HostKeysMac = nil },
			"cut csr":          func(r *fleetv1.EnrolRequest) { r.Csr = r.GetCsr()[:40] },
			"altered csr":      func(r *fleetv1.EnrolRequest) { r.Csr[len(r.GetCsr())-1] ^= 1 },
			"no host keys":     func(r *fleetv1.EnrolRequest) { r.HostKeys = nil },
			"others' hostkeys": func(r *fleetv1.EnrolRequest) { r.HostKeys = w.newAgent("pyrite", "i").keys },
		} {
			r := a.enrolRequest(j)
			edit(r)
			_, err := e.Enrol(t.Context(), r)
			if err == nil {
				t.Errorf("%s: enrolled", name)
				continue
			}
			wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
		}
		// None of that used the token up.
		check(t, a.enrol(j))
	})
	t.Run("refused to make", func(t *testing.T) {
		op := w.operator("cameron")
		hash := bytes.Repeat([]byte{1}, 32)
		_, err := op.CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Machine: "nowhere", TokenHash: hash, TtlSeconds: 600})
		wantRefusal(t, err, codes.NotFound, refusal.UnknownMachine)
		_, err = op.CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Machine: "galena", TokenHash: hash, TtlSeconds: 601})
		wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
		_, err = op.CreateToken(t.Context(), &fleetv1.CreateTokenRequest{Machine: "galena", TokenHash: hash[:8], TtlSeconds: 600})
		wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	})
}

func TestTokensOutliveRestart(t *testing.T) {
	w := newWorld(t)
	j := w.join("galena")
	w.stop()
	w.start()
	a := w.newAgent("galena", "i1")
	check(t, a.enrol(j))
	w.stop()
	w.start()
	wantRefusal(t, w.newAgent("galena", "i2").enrol(j), codes.Unauthenticated, refusal.TokenUsed)
	keys, err := w.operator("vic").ListHostKeys(t.Context(), &fleetv1.ListHostKeysRequest{})
	check(t, err)
	if h := keys.GetHosts(); len(h) != 1 || !j.CheckMAC(h[0].GetKeys(), h[0].GetMac()) || !bytes.Equal(h[0].GetTokenHash(), j.TokenHash()) {
		t.Errorf("host keys: %v", h)
	}
}

// TestEnrolRate: who saw a join string may not show it as often as it likes,
// and who saw none takes nobody's turn.
func TestEnrolRate(t *testing.T) {
	w := newWorld(t)
	show := func(token []byte, times int) (err error) {
		req := &fleetv1.EnrolRequest{Machine: "pyrite", Token: token, HostKeysMac: make([]byte, 32), InstanceId: "i1"}
		conn := w.dial(pki.EnrolTLS(fleetID, fleet.DigestOf(w.ca.Cert.Raw), w.clock.now))
		defer conn.Close() //nolint:errcheck // Nothing is under way.
		for range times {
			if _, err = fleetv1.NewEnrolmentServiceClient(conn).Enrol(t.Context(), req); err == nil {
				t.Fatal("enrolled without a key")
			}
		}
		return err
	}
	// A connection without a certificate may carry only so much.
	const connections, calls = 10, 200
	for range connections {
		wantRefusal(t, show(make([]byte, 32), calls), codes.Unauthenticated, refusal.TokenUnknown)
	}
	check(t, w.newAgent("galena", "i1").enrol(w.join("galena")))
	j := w.join("pyrite")
	for range connections {
		err := show(j.Token(), calls)
		if r, _ := refusal.Of(err); r.Code == refusal.TooMany {
			wantRefusal(t, err, codes.ResourceExhausted, refusal.TooMany)
			// A while later it goes on.
			w.clock.advance(time.Minute)
			check(t, w.newAgent("pyrite", "i1").enrol(j))
			return
		}
	}
	t.Error("nothing bounds enrolments")
}

func (a *agent) renew() (*x509.Certificate, error) {
	a.w.t.Helper()
	csr, err := pki.NewCSR(a.key)
	check(a.w.t, err)
	resp, err := a.host.Renew(a.w.t.Context(), &fleetv1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, err
	}
	a.use(resp.GetCertificate())
	return x509.ParseCertificate(resp.GetCertificate())
}

func TestRenewal(t *testing.T) {
	w := newWorld(t)
	a := w.enrolled("galena")
	w.clock.advance(pki.HostTTL / 2)
	leaf, err := a.renew()
	check(t, err)
	if left := leaf.NotAfter.Sub(w.clock.now()); left < pki.HostTTL-time.Minute || left > pki.HostTTL {
		t.Errorf("renewed for %s, want %s", left, pki.HostTTL)
	}
	if w.clock.now().Sub(leaf.NotBefore) < time.Minute {
		t.Error("the certificate begins now: hosts with a slow clock refuse it")
	}

	// Long asleep: nothing but renewal.
	w.clock.advance(pki.HostTTL + 60*24*time.Hour)
	a.use(a.cert.Certificate[0])
	_, err = a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	wantRefusal(t, err, codes.Unauthenticated, refusal.IdentityExpired)
	_, err = a.renew()
	check(t, err)
	_, err = a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	check(t, err)

	t.Run("other key", func(t *testing.T) {
		csr, err := pki.NewCSR(w.newAgent("galena", "x").key)
		check(t, err)
		_, err = a.host.Renew(t.Context(), &fleetv1.RenewRequest{Csr: csr})
		wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	})
	t.Run("connection open when it ends", func(t *testing.T) {
		w.clock.advance(pki.HostTTL + time.Hour)
		_, err := a.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
		wantRefusal(t, err, codes.Unauthenticated, refusal.IdentityExpired)
	})
}

// TestOtherKeyWithoutEnrolment shows a certificate of the CA that this
// coordinator never issued, for a host that it knows by another key.
func TestOtherKeyWithoutEnrolment(t *testing.T) {
	w := newWorld(t)
	w.enrolled("galena")
	w.clock.advance(2 * time.Second) // Certificates count in seconds.
	other := fleetv1.NewHostServiceClient(w.as(w.issue(pki.HostIdentity(fleetID, "galena"))))
	_, err := other.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	check(t, err)
	if n, alarm := count(w.events("galena"), "identity-replaced"); n != 1 || !alarm {
		t.Errorf("%d events, alarm %t", n, alarm)
	}
}

func TestReenrolmentSupersedes(t *testing.T) {
	w := newWorld(t)
	old := w.enrolled("galena")
	stream := old.mustWatch(t.Context())
	w.clock.advance(2 * time.Second) // Certificates count in seconds.
	fresh := w.newAgent("galena", "fresh")
	check(t, fresh.enrol(w.join("galena")))
	for {
		_, err := stream.Recv()
		if err != nil {
			wantRefusal(t, err, codes.PermissionDenied, refusal.IdentitySuperseded)
			break
		}
	}
	_, err := old.host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	wantRefusal(t, err, codes.PermissionDenied, refusal.IdentitySuperseded)
	_, err = old.renew()
	wantRefusal(t, err, codes.PermissionDenied, refusal.IdentitySuperseded)
	if n, alarm := count(w.events("galena"), "identity-superseded"); n != 1 || !alarm {
		t.Errorf("%d events, alarm %t", n, alarm)
	}
	fresh.mustWatch(t.Context())
}
