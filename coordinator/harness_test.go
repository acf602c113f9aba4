package coordinator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/coordinator"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	fleetID = fleet.FleetID("first")
	patient = 20 * time.Second
)

// clock is a settable clock.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// world is a fleet's repository and its coordinator.
type world struct {
	t       *testing.T
	clock   *clock
	ca      *pki.CA
	kit     *kit.Kit
	rootKey release.Signer
	release release.Signer
	secrets release.Signer
	// freshness signs what is the newest.
	freshness release.Signer
	root      *release.Trust
	state     string
	pace      pace.Limit
	addr      string
	stop      func() // stops the coordinator
}

func newSigner(t *testing.T) (release.Signer, ed25519.PublicKey) {
	t.Helper()
	key, err := pki.NewKey()
	check(t, err)
	pub, _ := key.Public().(ed25519.PublicKey)
	return release.NewSigner(key), pub
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, edit ...func(*kit.Kit)) *world {
	t.Helper()
	return newFleetWorld(t, fleetID, edit...)
}

// newFleetWorld is newWorld for another fleet.
func newFleetWorld(t *testing.T, fleetID fleet.FleetID, edit ...func(*kit.Kit)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}, state: t.TempDir()}
	now := w.clock.now()
	var err error
	w.ca, err = pki.NewCA(fleetID, now)
	check(t, err)
	caKey, err := w.ca.MarshalKey()
	check(t, err)
	key, err := pki.NewKey()
	check(t, err)
	cert, err := w.ca.Issue(pki.CoordinatorIdentity(fleetID, "cinnabar"), key.Public(), now, pki.OperatorTTL)
	check(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)

	root := release.Root{
		Type: fleet.TypeRoot, Fleet: fleetID, Version: 1, Epoch: 1, Issued: now, Expires: now.Add(400 * 24 * time.Hour),
		Keys: map[string]release.Key{}, Roles: map[release.RoleName]release.RoleKeys{},
	}
	signers := map[release.RoleName]release.Signer{}
	for _, role := range release.AllRoles() {
		s, pub := newSigner(t)
		id, k := release.NewKey(pub)
		root.Keys[id] = k
		root.Roles[role] = release.RoleKeys{Threshold: 1, KeyIDs: []string{id}}
		signers[role] = s
	}
	w.rootKey, w.freshness = signers[release.RoleRoot], signers[release.RoleFreshness]
	w.release, w.secrets = signers[release.RoleRelease], signers[release.RoleSecrets]
	envelope, pin, err := release.Seal(fleet.TypeRoot, root, signers[release.RoleRoot])
	check(t, err)
	w.root, err = release.OpenRoot(envelope, pin)
	check(t, err)
	w.kit = &kit.Kit{
		Fleet: fleetID, Name: "cinnabar", CACert: w.ca.Cert.Raw, CAKey: caKey, Cert: cert, Key: keyDER,
		RootPin: pin, Roots: [][]byte{envelope},
		Machines: []kit.Machine{
			{Name: "cinnabar", Class: fleet.ClassNixOS}, {Name: "galena", Class: fleet.ClassNixOS}, {Name: "pyrite", Class: fleet.ClassNixOS},
		},
		Operators: []kit.Operator{
			{Name: "cameron", Role: fleet.RoleAdmin},
			{Name: "dana", Role: fleet.RoleDeployer},
			{Name: "vic", Role: fleet.RoleViewer},
			{Name: "abe", Role: fleet.RoleApprover},
			{Name: "sue", Role: fleet.RoleSecretsAdmin},
		},
	}
	for _, f := range edit {
		f(w.kit)
	}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// config is that of a coordinator over the world's state directory.
func (w *world) config() coordinator.Config {
	out := io.Discard
	if testing.Verbose() {
		out = os.Stderr
	}
	listen := "127.0.0.1:0"
	if w.addr != "" {
		listen = w.addr
	}
	return coordinator.Config{
		Kit: w.kit, StateDir: w.state, Listen: listen, Now: w.clock.now, MinFreeBytes: 1, TransferPace: w.pace,
		Log: slog.New(slog.NewTextHandler(out, nil)),
	}
}

// start runs the coordinator over the world's state directory.
func (w *world) start() {
	w.t.Helper()
	c, err := coordinator.New(w.t.Context(), w.config())
	check(w.t, err)
	w.addr = c.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("running the coordinator: %v", err)
		}
	})
}

// wipe restarts the coordinator with an empty state directory.
func (w *world) wipe() {
	w.t.Helper()
	w.stop()
	w.state = w.t.TempDir()
	w.start()
}

func (w *world) dial(conf *tls.Config, opts ...grpc.DialOption) *grpc.ClientConn {
	w.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+w.addr, append(opts, grpc.WithTransportCredentials(credentials.NewTLS(conf)))...)
	check(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// as connects with a certificate.
func (w *world) as(cert tls.Certificate, opts ...grpc.DialOption) *grpc.ClientConn {
	w.t.Helper()
	return w.dial(pki.ClientTLS(pki.ClientConfig{
		Certificate: func() (*tls.Certificate, error) { return &cert, nil },
		CAs:         func() []*x509.Certificate { return []*x509.Certificate{w.ca.Cert} },
		Fleet:       fleetID, Now: w.clock.now,
	}), opts...)
}

func (w *world) operator(name fleet.OperatorName) fleetv1.OperatorServiceClient {
	w.t.Helper()
	return fleetv1.NewOperatorServiceClient(w.as(w.issue(pki.OperatorIdentity(fleetID, name))))
}

// issue makes a certificate with the CA, without the coordinator.
func (w *world) issue(id pki.Identity) tls.Certificate {
	w.t.Helper()
	key, err := pki.NewKey()
	check(w.t, err)
	der, err := w.ca.Issue(id, key.Public(), w.clock.now(), pki.HostTTL)
	check(w.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// content is a bundle's bytes; it need not be one for the coordinator.
func content(s string) ([]byte, fleet.BlobRef) {
	b := bytes.Repeat([]byte(s+"\n"), 40_000)
	return b, fleet.BlobRef{Digest: fleet.DigestOf(b), Size: uint64(len(b))}
}

func (w *world) upload(op fleetv1.OperatorServiceClient, b []byte, ref fleet.BlobRef) error {
	st, err := op.StatBlob(w.t.Context(), &fleetv1.StatBlobRequest{Digest: string(ref.Digest), Size: ref.Size})
	if err != nil || st.GetComplete() {
		return err
	}
	s, err := op.PutBlob(w.t.Context())
	if err != nil {
		return err
	}
	first := true
	for chunk := range slices.Chunk(b[st.GetOffset():], 200<<10) {
		m := &fleetv1.PutBlobRequest{Data: chunk}
		if first {
			m.Digest, m.Size, m.Offset = string(ref.Digest), ref.Size, st.GetOffset()
			first = false
		}
		if err := s.Send(m); err != nil {
			break // CloseAndRecv tells why.
		}
	}
	_, err = s.CloseAndRecv()
	return err
}

// generation seals a generation.
func (w *world) generation(m fleet.MachineName, seq uint64, id fleet.ReleaseID, src fleet.BlobRef, edit ...func(*fleet.Generation)) ([]byte, fleet.Ref) {
	w.t.Helper()
	now := w.clock.now()
	g := fleet.Generation{
		Type: fleet.TypeGeneration, Fleet: fleetID, Machine: m, Profile: fleet.System,
		Number: fleet.Number{Epoch: 1, Seq: seq}, Release: id, Issued: now, Expires: now.Add(fleet.DefaultExpiry),
		Source: fleet.Source{Driver: "bundle", Bundle: &fleet.BundleSource{Digest: src.Digest, Size: src.Size}},
	}
	for _, f := range edit {
		f(&g)
	}
	env, digest, err := release.Seal(fleet.TypeGeneration, g, w.release)
	check(w.t, err)
	return env, fleet.Ref{Number: g.Number, Digest: digest, Release: id}
}

func (w *world) stage(op fleetv1.OperatorServiceClient, id fleet.ReleaseID, gens ...*fleetv1.SignedGeneration) (uint32, error) {
	s, err := op.Stage(w.t.Context())
	if err != nil {
		return 0, err
	}
	for _, g := range gens {
		if err := s.Send(&fleetv1.StageRequest{Release: string(id), Generation: g}); err != nil {
			break // CloseAndRecv tells why.
		}
	}
	resp, err := s.CloseAndRecv()
	return resp.GetCount(), err
}

// publish stages and commits one generation for each machine.
func (w *world) publish(id, expected fleet.ReleaseID, seq uint64, machines []fleet.MachineName, edit ...func(*fleet.Generation)) map[fleet.MachineName]fleet.Ref {
	w.t.Helper()
	op := w.operator("dana")
	b, src := content(string(id))
	check(w.t, w.upload(op, b, src))
	var gens []*fleetv1.SignedGeneration
	refs := map[fleet.MachineName]fleet.Ref{}
	for _, m := range machines {
		env, ref := w.generation(m, seq, id, src, edit...)
		gens = append(gens, &fleetv1.SignedGeneration{Generation: env})
		refs[m] = ref
	}
	n, err := w.stage(op, id, gens...)
	check(w.t, err)
	_, err = op.Commit(w.t.Context(), &fleetv1.CommitRequest{Release: string(id), ExpectedHead: string(expected), Count: n, Revision: "rev-" + string(id)})
	check(w.t, err)
	return refs
}

// wantRefusal checks code and reason of a refused call.
func wantRefusal(t *testing.T, err error, code codes.Code, reason fleet.ReasonCode) {
	t.Helper()
	r, ok := refusal.Of(err)
	if !ok || status.Code(err) != code || r.Code != reason {
		t.Fatalf("got %v (reason %q), want %s with reason %q", err, r.Code, code, reason)
	}
}

// events returns the whole event log of a machine, "" for all.
func (w *world) events(machine fleet.MachineName) []*fleetv1.WatchEventsResponse {
	w.t.Helper()
	s, err := w.operator("vic").WatchEvents(w.t.Context(), &fleetv1.WatchEventsRequest{FromSeq: 1, Machine: string(machine)})
	check(w.t, err)
	return collect(w.t, s)
}

func collect[T any](t *testing.T, s grpc.ServerStreamingClient[T]) []*T {
	t.Helper()
	var out []*T
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		check(t, err)
		out = append(out, m)
	}
}

// count returns how many events are of a kind, and whether all are alarms.
func count(events []*fleetv1.WatchEventsResponse, kind string) (n int, alarm bool) {
	alarm = true
	for _, e := range events {
		if e.GetKind() == kind {
			n++
			alarm = alarm && e.GetAlarm()
		}
	}
	return n, alarm && n > 0
}

// status is what ListHosts says of a machine.
func (w *world) status(m fleet.MachineName) *fleetv1.Host {
	w.t.Helper()
	s, err := w.operator("vic").ListHosts(w.t.Context(), &fleetv1.ListHostsRequest{Machine: string(m)})
	check(w.t, err)
	hosts := collect(w.t, s)
	if len(hosts) != 1 {
		w.t.Fatalf("%d hosts called %s", len(hosts), m)
	}
	return hosts[0].GetHost()
}
