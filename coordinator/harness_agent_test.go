package coordinator_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"testing"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// agent is a host as the coordinator sees it.
type agent struct {
	w        *world
	machine  fleet.MachineName
	key      ed25519.PrivateKey
	report   release.Signer
	keys     []byte
	mac      []byte
	instance string
	boot     string
	run      string // where it names one
	cert     tls.Certificate
	host     fleetv1.HostServiceClient
	seq      uint64
}

func (w *world) newAgent(m fleet.MachineName, instance string) *agent {
	w.t.Helper()
	key, err := pki.NewKey()
	check(w.t, err)
	signer, pub := newSigner(w.t)
	keys, err := pki.NewHostKeys(m, pub, "").Marshal()
	check(w.t, err)
	return &agent{w: w, machine: m, key: key, report: signer, keys: keys, instance: instance, boot: "boot-1"}
}

// join makes a join string and registers its token.
func (w *world) join(m fleet.MachineName) pki.Join {
	w.t.Helper()
	j, err := pki.NewJoin(pki.Join{
		Fleet: fleetID, Machine: m, Addresses: []string{w.addr}, CA: fleet.DigestOf(w.ca.Cert.Raw), Root: w.root.Digest(), Issued: w.clock.now(),
	})
	check(w.t, err)
	_, err = w.operator("cameron").CreateToken(w.t.Context(), &fleetv1.CreateTokenRequest{Machine: string(m), TokenHash: j.TokenHash(), TtlSeconds: 600})
	check(w.t, err)
	return j
}

func (a *agent) enrolRequest(j pki.Join) *fleetv1.EnrolRequest {
	a.w.t.Helper()
	csr, err := pki.NewCSR(a.key)
	check(a.w.t, err)
	return &fleetv1.EnrolRequest{
		Machine: string(a.machine), Token: j.Token(), Csr: csr, HostKeys: a.keys, HostKeysMac: j.MAC(a.keys), InstanceId: a.instance,
	}
}

// enrol enrols with a join string and connects with the identity.
func (a *agent) enrol(j pki.Join) error {
	a.w.t.Helper()
	conn := a.w.dial(pki.EnrolTLS(fleetID, j.CA, a.w.clock.now))
	resp, err := fleetv1.NewEnrolmentServiceClient(conn).Enrol(a.w.t.Context(), a.enrolRequest(j))
	if err != nil {
		return err
	}
	if len(resp.GetRoots()) != 1 || len(resp.GetCa()) != 1 {
		a.w.t.Errorf("enrolment: %d roots, %d CAs", len(resp.GetRoots()), len(resp.GetCa()))
	}
	a.mac = j.MAC(a.keys)
	a.use(resp.GetCertificate())
	return nil
}

// use connects anew with a certificate.
func (a *agent) use(der []byte) {
	a.w.t.Helper()
	a.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
	a.host = fleetv1.NewHostServiceClient(a.w.as(a.cert))
}

// enrolled is an agent that is enrolled.
func (w *world) enrolled(m fleet.MachineName) *agent {
	w.t.Helper()
	a := w.newAgent(m, "instance-"+string(m))
	check(w.t, a.enrol(w.join(m)))
	return a
}

type watchStream = grpc.ServerStreamingClient[fleetv1.WatchResponse]

func (a *agent) watch(ctx context.Context) (watchStream, error) {
	s, err := a.host.Watch(ctx, &fleetv1.WatchRequest{AgentVersion: "test", InstanceId: a.instance, BootId: a.boot, RunId: a.run, Capabilities: []string{"bundle"}})
	if err != nil {
		return nil, err
	}
	m, err := s.Recv()
	if err != nil {
		return nil, err
	}
	if m.GetReason() != fleetv1.WakeReason_WAKE_REASON_HELLO {
		a.w.t.Errorf("first hint is %s, want hello", m.GetReason())
	}
	return s, nil
}

func (a *agent) mustWatch(ctx context.Context) watchStream {
	a.w.t.Helper()
	s, err := a.watch(ctx)
	check(a.w.t, err)
	return s
}

// await reads hints until one has this reason.
func await(t *testing.T, s watchStream, want fleetv1.WakeReason) {
	t.Helper()
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if m.GetReason() == want {
			return
		}
	}
}

// sealReport signs a report of one profile.
func (a *agent) sealReport(status fleet.ProfileStatus, transitions ...fleet.Transition) []byte {
	a.w.t.Helper()
	status.Profile = fleet.System
	env, err := release.SealReport(fleet.Report{
		Fleet: fleetID, Machine: a.machine, InstanceID: a.instance, BootID: a.boot, AgentVersion: "test",
		Time: a.w.clock.now(), Mode: fleet.ModeManage, Profiles: []fleet.ProfileStatus{status}, Transitions: transitions,
	}, a.report)
	check(a.w.t, err)
	return env
}

func (a *agent) transition(state fleet.State, ref fleet.Ref) fleet.Transition {
	a.seq++
	return fleet.Transition{Seq: a.seq, Time: a.w.clock.now(), Profile: fleet.System, State: state, Ref: ref}
}

// confirm reports a generation as running and confirmed.
func (a *agent) confirm(ref fleet.Ref) *fleetv1.ReportResponse {
	a.w.t.Helper()
	resp, err := a.host.Report(a.w.t.Context(), &fleetv1.ReportRequest{Report: a.sealReport(
		fleet.ProfileStatus{State: fleet.StateConfirmed, Current: ref, Confirmed: ref, Highest: ref},
		a.transition(fleet.StateVerified, ref), a.transition(fleet.StateConfirmed, ref),
	)})
	check(a.w.t, err)
	return resp
}
