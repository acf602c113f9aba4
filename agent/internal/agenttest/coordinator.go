package agenttest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1" //nolint:depguard // It is the other side of the edge, for tests.
)

// Coordinator serves one machine over loopback mTLS, and remembers what it was
// told. It can be stopped and started again on the same address.
type Coordinator struct {
	fleetv1.UnimplementedHostServiceServer
	fleetv1.UnimplementedEnrolmentServiceServer

	Fleet   *Fleet
	Address string

	mu         sync.Mutex
	cert       tls.Certificate
	server     *grpc.Server
	served     sync.WaitGroup
	desired    *fleetv1.GetDesiredResponse
	blobs      map[fleet.Digest][]byte
	hosts      pki.HostKeys
	reports    []fleet.Report
	accepted   []*fleetv1.SignedGeneration
	acked      uint64
	unknown    []string
	hints      map[chan fleetv1.WakeReason]bool
	refuse     map[string]error
	held       map[string]chan struct{}
	ttl        time.Duration
	noAck      bool
	calls      map[string]int
	changed    chan struct{}
	trickle    time.Duration
	cutBlobsAt int
	lie        Lie
	sent       atomic.Uint64
}

// NewCoordinator starts a coordinator that stops with the test.
func NewCoordinator(f *Fleet) *Coordinator {
	f.T.Helper()
	key, err := pki.NewKey()
	f.must(err)
	der, err := f.CA.Issue(pki.CoordinatorIdentity(FleetID, "cinnabar"), key.Public(), f.Now(), 365*24*time.Hour)
	f.must(err)
	c := &Coordinator{
		Fleet: f, cert: tls.Certificate{Certificate: [][]byte{der, f.CA.Cert.Raw}, PrivateKey: key},
		desired: &fleetv1.GetDesiredResponse{}, blobs: map[fleet.Digest][]byte{},
		hints: map[chan fleetv1.WakeReason]bool{}, refuse: map[string]error{}, held: map[string]chan struct{}{},
		ttl: pki.HostTTL, calls: map[string]int{}, changed: make(chan struct{}),
	}
	c.Start()
	f.T.Cleanup(c.Stop)
	return c
}

// Start serves, on the address of last time where there was one.
func (c *Coordinator) Start() {
	c.Fleet.T.Helper()
	address := c.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", address)
	c.Fleet.must(err)
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(pki.ServerTLS(pki.ServerConfig{
		Certificate: func() (*tls.Certificate, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			cert := c.cert
			return &cert, nil
		},
		CAs:   func() []*x509.Certificate { return []*x509.Certificate{c.Fleet.CA.Cert} },
		Fleet: FleetID, Now: c.Fleet.Now, Grace: pki.RenewGrace,
	}))), grpc.UnaryInterceptor(c.unary), grpc.StreamInterceptor(c.stream))
	fleetv1.RegisterHostServiceServer(s, c)
	fleetv1.RegisterEnrolmentServiceServer(s, c)
	c.mu.Lock()
	c.Address, c.server = l.Addr().String(), s
	c.mu.Unlock()
	c.served.Go(func() { _ = s.Serve(listener{l, &c.sent}) })
}

// Stop ends all streams and calls at once.
func (c *Coordinator) Stop() {
	c.mu.Lock()
	s := c.server
	c.server = nil
	c.mu.Unlock()
	if s != nil {
		s.Stop()
		c.served.Wait()
	}
}

// Publish makes a generation the desired one, with the blobs it needs, and
// tells the agent.
func (c *Coordinator) Publish(envelope, secrets []byte, blobs ...[]byte) {
	c.change(func() {
		c.desired.Roots = c.Fleet.Roots
		c.desired.Profiles = []*fleetv1.DesiredProfile{{
			Profile: string(fleet.System),
			Newest:  &fleetv1.SignedGeneration{Generation: envelope, Secrets: secrets},
		}}
		for _, b := range blobs {
			c.blobs[fleet.DigestOf(b)] = b
		}
	})
	c.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
}

// PublishBeside is Publish for one more profile, until the next Publish.
func (c *Coordinator) PublishBeside(profile fleet.ProfileName, envelope []byte, blobs ...[]byte) {
	c.change(func() {
		c.desired.Roots = c.Fleet.Roots
		c.desired.Profiles = slices.DeleteFunc(slices.Clone(c.desired.Profiles), func(p *fleetv1.DesiredProfile) bool {
			return p.GetProfile() == string(profile)
		})
		c.desired.Profiles = append(c.desired.Profiles, &fleetv1.DesiredProfile{
			Profile: string(profile), Newest: &fleetv1.SignedGeneration{Generation: envelope},
		})
		for _, b := range blobs {
			c.blobs[fleet.DigestOf(b)] = b
		}
	})
	c.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
}

// OfferUnsigned offers something that nobody signed for one more profile, until
// the next Publish.
func (c *Coordinator) OfferUnsigned(profile fleet.ProfileName) {
	c.change(func() {
		c.desired.Profiles = append(c.desired.Profiles, &fleetv1.DesiredProfile{
			Profile: string(profile), Newest: &fleetv1.SignedGeneration{Generation: []byte("{}")},
		})
	})
}

// Revert has the machine sent back to a generation.
func (c *Coordinator) Revert(envelope, secrets []byte) {
	c.change(func() {
		c.desired.Profiles[0].Revert = &fleetv1.SignedGeneration{Generation: envelope, Secrets: secrets}
	})
	c.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
}

// HandOutRoots hands out the fleet's trust roots.
func (c *Coordinator) HandOutRoots() {
	c.change(func() { c.desired.Roots = c.Fleet.Roots })
	c.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
}

// State hands out a freshness statement.
func (c *Coordinator) State(envelope []byte) {
	c.change(func() { c.desired.Freshness = envelope })
	c.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
}

// Loosen hands out loosening documents.
func (c *Coordinator) Loosen(envelopes ...[]byte) {
	c.change(func() { c.desired.Loosenings = envelopes })
	c.Hint(fleetv1.WakeReason_WAKE_REASON_DESIRED)
}

// Hint wakes all streams; one that is busy misses it.
func (c *Coordinator) Hint(r fleetv1.WakeReason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for h := range c.hints {
		select {
		case h <- r:
		default:
		}
	}
}

// Refuse has a method ("Watch", "Report", …) fail; nil lets it work again.
func (c *Coordinator) Refuse(method string, err error) { c.change(func() { c.refuse[method] = err }) }

// Hold has calls of a method wait until the returned function is called.
func (c *Coordinator) Hold(method string) (release func()) {
	ch := make(chan struct{})
	c.change(func() { c.held[method] = ch })
	return sync.OnceFunc(func() {
		c.change(func() { delete(c.held, method) })
		close(ch)
	})
}

// SetTTL sets the lifetime of certificates issued from now on.
func (c *Coordinator) SetTTL(d time.Duration) { c.change(func() { c.ttl = d }) }

// SetBlob has other bytes served under a digest.
func (c *Coordinator) SetBlob(d fleet.Digest, b []byte) { c.change(func() { c.blobs[d] = b }) }

// CutBlobs has each blob stream end after so many bytes; 0: it doesn't.
func (c *Coordinator) CutBlobs(n int) { c.change(func() { c.cutBlobsAt = n }) }

// Trickle has blobs come one byte at a time; 0: they don't.
func (c *Coordinator) Trickle(pause time.Duration) { c.change(func() { c.trickle = pause }) }

// Forget is a coordinator that lost its store: it lacks a generation.
func (c *Coordinator) Forget(d fleet.Digest) { c.change(func() { c.unknown = []string{string(d)} }) }

// NoAck has reports be answered without acknowledging transitions.
func (c *Coordinator) NoAck(on bool) { c.change(func() { c.noAck = on }) }

func (c *Coordinator) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}
