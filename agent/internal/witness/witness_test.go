package witness_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/witness"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const fleetID fleet.FleetID = "first"

// authority issues certificates to whoever a test wants.
type authority struct {
	t  *testing.T
	ca *pki.CA
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	ca, err := pki.NewCA(fleetID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, ca}
}

func (a authority) cas() []*x509.Certificate { return []*x509.Certificate{a.ca.Cert} }

// certificate is one for an identity, that ends after a while.
func (a authority) certificate(id pki.Identity, ttl time.Duration) func() (*tls.Certificate, error) {
	a.t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := a.ca.Issue(id, key.Public(), time.Now(), ttl)
	if err != nil {
		a.t.Fatal(err)
	}
	return func() (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
	}
}

// serve has a witness answer until the test is over.
func (a authority) serve(id pki.Identity, reach func(context.Context) error) (address string) {
	a.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // A test's.
	if err != nil {
		a.t.Fatal(err)
	}
	s := &witness.Server{
		TLS: pki.WitnessServerTLS(pki.ServerConfig{
			Certificate: a.certificate(id, time.Minute), CAs: a.cas, Fleet: fleetID, Now: time.Now,
		}),
		Reach: reach, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	})
	return l.Addr().String()
}

func (a authority) client(id pki.Identity, ttl time.Duration, m fleet.MachineName) *tls.Config {
	a.t.Helper()
	return pki.WitnessClientTLS(pki.ClientConfig{
		Certificate: a.certificate(id, ttl), CAs: a.cas, Fleet: fleetID, Now: time.Now,
	}, m)
}

func host(m fleet.MachineName) pki.Identity { return pki.HostIdentity(fleetID, m) }

func TestAnswers(t *testing.T) {
	a := newAuthority(t)
	var down atomic.Bool
	var reached atomic.Int64
	address := a.serve(host("galena"), func(context.Context) error {
		reached.Add(1)
		if down.Load() {
			return errors.New("no\x1broute\nto host")
		}
		return nil
	})
	config := a.client(host("cinnabar"), time.Minute, "galena")
	if err := witness.Put(t.Context(), config, address, witness.Here); err != nil {
		t.Error(err)
	}
	var asking sync.WaitGroup
	for range 3 {
		asking.Go(func() {
			if err := witness.Put(t.Context(), config, address, witness.Coordinator); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if n := reached.Load(); n > 2 {
		t.Errorf("the coordinator was reached for %d times by three who asked at once", n)
	}
	// What was so before counts no longer.
	down.Store(true)
	err := witness.Put(t.Context(), config, address, witness.Coordinator)
	if !errors.Is(err, witness.ErrNo) || !strings.Contains(err.Error(), "norouteto host") {
		t.Errorf("asked about a coordinator out of reach: %v", err)
	}
	if err := witness.Put(t.Context(), config, address, "time"); !errors.Is(err, witness.ErrNo) {
		t.Errorf("asked something else: %v", err)
	}
}

// TestStrangers: neither side takes anybody for a host that is not the one.
func TestStrangers(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	yes := func(context.Context) error { return nil }
	galena := a.serve(host("galena"), yes)
	for name, c := range map[string]struct {
		address string
		config  *tls.Config
	}{
		"a host of another fleet asks":  {galena, other.client(host("cinnabar"), time.Minute, "galena")},
		"an operator asks":              {galena, a.client(pki.OperatorIdentity(fleetID, "ann"), time.Minute, "galena")},
		"the coordinator asks":          {galena, a.client(pki.CoordinatorIdentity(fleetID, "cinnabar"), time.Minute, "galena")},
		"a host whose identity expired": {galena, a.client(host("cinnabar"), time.Nanosecond, "galena")},
		"another host answers":          {galena, a.client(host("cinnabar"), time.Minute, "pyrite")},
		"one of another fleet answers":  {other.serve(host("galena"), yes), a.client(host("cinnabar"), time.Minute, "galena")},
		"the coordinator answers":       {a.serve(pki.CoordinatorIdentity(fleetID, "galena"), yes), a.client(host("cinnabar"), time.Minute, "galena")},
	} {
		if err := witness.Put(t.Context(), c.config, c.address, witness.Here); err == nil || errors.Is(err, witness.ErrNo) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostilePeers: who says nothing, too much or nonsense takes nothing from others, and
// is told from an answer.
func TestHostilePeers(t *testing.T) {
	a := newAuthority(t)
	address := a.serve(host("galena"), func(context.Context) error { return nil })
	var silent []net.Conn
	for range 40 {
		conn, err := net.Dial("tcp", address) //nolint:noctx // A test's.
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	config := a.client(host("cinnabar"), time.Minute, "galena")
	if err := witness.Put(t.Context(), config, address, witness.Here); err == nil {
		t.Error("one more than may be of one address is answered")
	}
	for limit := time.Now().Add(30 * time.Second); witness.Put(t.Context(), config, address, witness.Here) != nil; {
		if time.Now().After(limit) {
			t.Fatal("nobody is answered any more")
		}
		time.Sleep(50 * time.Millisecond) // The silent ones have five seconds.
	}
	for _, conn := range silent {
		_ = conn.Close()
	}
	long := witness.Ask(strings.Repeat("x", 4096))
	if err := witness.Put(t.Context(), config, address, long); err == nil || errors.Is(err, witness.ErrNo) {
		t.Errorf("a question without end: %v", err)
	}

	for name, says := range map[string]string{
		"nothing": "", "no line": "yes", "too much": strings.Repeat("yes", 1000) + "\n", "nonsense": "perhaps\n", "almost": "yes sir\n",
	} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", pki.WitnessServerTLS(pki.ServerConfig{
			Certificate: a.certificate(host("galena"), time.Minute), CAs: a.cas, Fleet: fleetID, Now: time.Now,
		}))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if conn, err := l.Accept(); err == nil {
				_, _ = conn.Read(make([]byte, 64))
				_, _ = io.WriteString(conn, says)
				_ = conn.Close()
			}
		}()
		if err := witness.Put(t.Context(), config, l.Addr().String(), witness.Here); err == nil || errors.Is(err, witness.ErrNo) {
			t.Errorf("a witness that says %s: %v", name, err)
		}
		_ = l.Close()
		<-done
	}
}
