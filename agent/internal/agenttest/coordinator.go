package agenttest

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
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

// Reports returns all reports so far.
func (c *Coordinator) Reports() []fleet.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]fleet.Report(nil), c.reports...)
}

// Accepted returns the documents that hosts attached.
func (c *Coordinator) Accepted() []*fleetv1.SignedGeneration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*fleetv1.SignedGeneration(nil), c.accepted...)
}

// Calls counts the calls of a method.
func (c *Coordinator) Calls(method string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[method]
}

// HostKeys are those that the host enrolled with.
func (c *Coordinator) HostKeys() pki.HostKeys {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hosts
}

// Wait waits until ok holds, looking at each change; the test fails when it
// does not within a minute.
func (c *Coordinator) Wait(what string, ok func() bool) {
	c.Fleet.T.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			c.Fleet.T.Fatalf("waited in vain for %s; last report: %+v", what, c.last())
		}
	}
}

// WaitState waits until the system profile is reported in a state, running ref,
// by a report made after from reports.
func (c *Coordinator) WaitState(s fleet.State, current fleet.Ref) fleet.ProfileStatus {
	c.Fleet.T.Helper()
	return c.WaitStateOf(fleet.System, s, current)
}

// WaitStateOf is WaitState for any profile.
func (c *Coordinator) WaitStateOf(profile fleet.ProfileName, s fleet.State, current fleet.Ref) fleet.ProfileStatus {
	c.Fleet.T.Helper()
	var got fleet.ProfileStatus
	c.Wait(string(s)+" "+current.Number.String(), func() bool {
		p := c.lastOf(profile)
		if p == nil || p.State != s || p.Current != current {
			return false
		}
		got = *p
		return true
	})
	return got
}

// WaitReason waits until the system profile is reported with a reason.
func (c *Coordinator) WaitReason(code fleet.ReasonCode) fleet.ProfileStatus {
	c.Fleet.T.Helper()
	var got fleet.ProfileStatus
	c.Wait("reason "+string(code), func() bool {
		p := c.last()
		if p == nil || p.Reason.Code != code {
			return false
		}
		got = *p
		return true
	})
	return got
}

func (c *Coordinator) last() *fleet.ProfileStatus { return c.lastOf(fleet.System) }

func (c *Coordinator) lastOf(profile fleet.ProfileName) *fleet.ProfileStatus {
	rs := c.Reports()
	if len(rs) == 0 {
		return nil
	}
	for _, p := range rs[len(rs)-1].Profiles {
		if p.Profile == profile {
			return &p
		}
	}
	return nil
}

// Transitions returns the states that were reported, each once, in order.
func (c *Coordinator) Transitions() []fleet.Transition {
	var out []fleet.Transition
	var seq uint64
	for _, r := range c.Reports() {
		for _, t := range r.Transitions {
			if t.Seq > seq {
				out, seq = append(out, t), t.Seq
			}
		}
	}
	return out
}

// enter counts a call, and refuses or holds it as the test wants.
func (c *Coordinator) enter(ctx context.Context, method string) error {
	var err error
	var held chan struct{}
	c.change(func() {
		c.calls[method]++
		err, held = c.refuse[method], c.held[method]
	})
	if err != nil {
		return err
	}
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Enrol implements the service.
func (c *Coordinator) Enrol(ctx context.Context, r *fleetv1.EnrolRequest) (*fleetv1.EnrolResponse, error) {
	if err := c.enter(ctx, "Enrol"); err != nil {
		return nil, err
	}
	keys, err := pki.ParseHostKeys(r.GetHostKeys())
	if err != nil {
		return nil, err
	}
	der, err := c.issue(r.GetCsr())
	if err != nil {
		return nil, err
	}
	c.change(func() { c.hosts = keys })
	return &fleetv1.EnrolResponse{Certificate: der, Ca: [][]byte{c.Fleet.CA.Cert.Raw}, Roots: c.Fleet.Roots}, nil
}

func (c *Coordinator) issue(csr []byte) ([]byte, error) {
	pub, err := pki.ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	ttl := c.ttl
	c.mu.Unlock()
	return c.Fleet.CA.Issue(pki.HostIdentity(FleetID, Machine), pub, c.Fleet.Now(), ttl)
}

// Renew implements the service.
func (c *Coordinator) Renew(ctx context.Context, r *fleetv1.RenewRequest) (*fleetv1.RenewResponse, error) {
	if err := c.enter(ctx, "Renew"); err != nil {
		return nil, err
	}
	der, err := c.issue(r.GetCsr())
	if err != nil {
		return nil, err
	}
	return &fleetv1.RenewResponse{Certificate: der, Ca: [][]byte{c.Fleet.CA.Cert.Raw}}, nil
}

// Watch implements the service.
func (c *Coordinator) Watch(_ *fleetv1.WatchRequest, s grpc.ServerStreamingServer[fleetv1.WatchResponse]) error {
	if err := c.enter(s.Context(), "Watch"); err != nil {
		return err
	}
	h := make(chan fleetv1.WakeReason, 1)
	c.change(func() { c.hints[h] = true })
	defer c.change(func() { delete(c.hints, h) })
	next := fleetv1.WakeReason_WAKE_REASON_HELLO
	for {
		if err := s.Send(&fleetv1.WatchResponse{Reason: next}); err != nil {
			return err
		}
		select {
		case next = <-h:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// GetDesired implements the service.
func (c *Coordinator) GetDesired(ctx context.Context, r *fleetv1.GetDesiredRequest) (*fleetv1.GetDesiredResponse, error) {
	if err := c.enter(ctx, "GetDesired"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	roots := c.desired.GetRoots()
	return &fleetv1.GetDesiredResponse{
		Roots:    roots[min(r.GetRootVersion(), uint64(len(roots))):],
		Profiles: c.desired.GetProfiles(), Loosenings: c.desired.GetLoosenings(), Freshness: c.desired.GetFreshness(),
	}, nil
}

// PutFreshness implements the service: the machine's own is handed out.
func (c *Coordinator) PutFreshness(ctx context.Context, r *fleetv1.PutFreshnessRequest) (*fleetv1.PutFreshnessResponse, error) {
	if err := c.enter(ctx, "PutFreshness"); err != nil {
		return nil, err
	}
	for _, s := range r.GetStatements() {
		c.State(s)
	}
	return &fleetv1.PutFreshnessResponse{}, nil
}

// GetBlob implements the service.
func (c *Coordinator) GetBlob(r *fleetv1.GetBlobRequest, s grpc.ServerStreamingServer[fleetv1.GetBlobResponse]) error {
	if err := c.enter(s.Context(), "GetBlob"); err != nil {
		return err
	}
	c.mu.Lock()
	b, ok := c.blobs[fleet.Digest(r.GetDigest())]
	trickle, cut := c.trickle, c.cutBlobsAt
	c.mu.Unlock()
	if !ok || r.GetOffset() > uint64(len(b)) {
		return refusal.New(codes.NotFound, fleet.Reason{Code: refusal.NotFound, Message: "no such blob"})
	}
	b = b[r.GetOffset():]
	if cut > 0 && len(b) > cut {
		b = b[:cut]
	}
	for len(b) > 0 {
		n := min(len(b), 64<<10)
		if trickle > 0 {
			n = 1
			select {
			case <-time.After(trickle):
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
		if err := s.Send(&fleetv1.GetBlobResponse{Data: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Report implements the service.
func (c *Coordinator) Report(ctx context.Context, r *fleetv1.ReportRequest) (*fleetv1.ReportResponse, error) {
	if err := c.enter(ctx, "Report"); err != nil {
		return nil, err
	}
	report, err := release.OpenReport(r.GetReport(), c.reportKey())
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ReportResponse{}
	c.change(func() {
		c.reports = append(c.reports, *report)
		c.accepted = append(c.accepted, r.GetAccepted()...)
		if len(r.GetAccepted()) > 0 {
			c.unknown = nil
		}
		if n := len(report.Transitions); n > 0 && !c.noAck {
			c.acked = max(c.acked, report.Transitions[n-1].Seq)
		}
		resp.AckedSeq, resp.UnknownGenerations = c.acked, c.unknown
	})
	return resp, nil
}

func (c *Coordinator) reportKey() ed25519.PublicKey {
	pub, err := c.HostKeys().ReportKey()
	if err != nil {
		return make(ed25519.PublicKey, ed25519.PublicKeySize) // fits no signature
	}
	return pub
}
