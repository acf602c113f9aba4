package coordinator_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// callers of the matrix, in the order of the columns below.
var callers = []string{"nobody", "host", "expired host", "banned host", "viewer", "deployer", "approver", "secrets-admin", "admin", "stranger", "coordinator", "expired admin"}

// Who is let through: one column per caller. Nothing is for approvers or for
// secrets-admins alone.
const (
	forAll       = "++++++++++++"
	forHosts     = "-+----------"
	forRenewal   = "-++---------"
	forViewers   = "----+++++---"
	forDeployers = "-----+--+---"
	forAdmins    = "--------+---"
	forKnown     = "-+--+++++-+-"
)

func TestAuthorization(t *testing.T) {
	want := map[string]string{
		fleetv1.EnrolmentService_Enrol_FullMethodName: forAll,

		fleetv1.HostService_Watch_FullMethodName:        forHosts,
		fleetv1.HostService_GetDesired_FullMethodName:   forHosts,
		fleetv1.HostService_GetBlob_FullMethodName:      forHosts,
		fleetv1.HostService_Report_FullMethodName:       forHosts,
		fleetv1.HostService_PutFreshness_FullMethodName: forHosts,
		fleetv1.HostService_Renew_FullMethodName:        forRenewal,

		fleetv1.OperatorService_ApplyInventory_FullMethodName: forDeployers,
		fleetv1.OperatorService_CreateToken_FullMethodName:    forAdmins,
		fleetv1.OperatorService_ListHostKeys_FullMethodName:   forViewers,
		fleetv1.OperatorService_GetHead_FullMethodName:        forViewers,
		fleetv1.OperatorService_StatBlob_FullMethodName:       forDeployers,
		fleetv1.OperatorService_PutBlob_FullMethodName:        forDeployers,
		fleetv1.OperatorService_Stage_FullMethodName:          forDeployers,
		fleetv1.OperatorService_Commit_FullMethodName:         forDeployers,
		fleetv1.OperatorService_ListReleases_FullMethodName:   forViewers,
		fleetv1.OperatorService_ListHosts_FullMethodName:      forViewers,
		fleetv1.OperatorService_WatchEvents_FullMethodName:    forViewers,
		fleetv1.OperatorService_RollBack_FullMethodName:       forDeployers,
		fleetv1.OperatorService_Loosen_FullMethodName:         forDeployers,
		fleetv1.OperatorService_Ban_FullMethodName:            forAdmins,
		fleetv1.OperatorService_AddTrustRoots_FullMethodName:  forDeployers,
		fleetv1.OperatorService_AddOperator_FullMethodName:    forAdmins,
		fleetv1.OperatorService_RemoveOperator_FullMethodName: forAdmins,
		fleetv1.OperatorService_ListOperators_FullMethodName:  forViewers,
		fleetv1.OperatorService_RenewOperator_FullMethodName:  forViewers,
		fleetv1.OperatorService_Propose_FullMethodName:        forDeployers,
		fleetv1.OperatorService_ListProposals_FullMethodName:  forViewers,
		fleetv1.OperatorService_GetProposal_FullMethodName:    forViewers,
		fleetv1.OperatorService_ExportEvents_FullMethodName:   forViewers,
		fleetv1.OperatorService_LookAtLog_FullMethodName:      forViewers,
		fleetv1.OperatorService_Countersign_FullMethodName:    forViewers,

		grpc_health_v1.Health_Check_FullMethodName: forKnown,
		grpc_health_v1.Health_List_FullMethodName:  forKnown,
		grpc_health_v1.Health_Watch_FullMethodName: forKnown,
	}
	w := newWorld(t)
	// Everything with a short life is made first; then time goes on.
	expiredHost, expiredAdmin := w.issue(pki.HostIdentity(fleetID, "pyrite")), w.issue(pki.OperatorIdentity(fleetID, "cameron"))
	w.clock.advance(pki.HostTTL + time.Hour)
	_, err := w.operator("cameron").Ban(t.Context(), &fleetv1.BanRequest{Machine: "cinnabar", Reason: "lost"})
	check(t, err)
	conns := []*grpc.ClientConn{
		w.dial(pki.EnrolTLS(fleetID, fleet.DigestOf(w.ca.Cert.Raw), w.clock.now)),
		w.as(w.issue(pki.HostIdentity(fleetID, "galena"))),
		w.as(expiredHost),
		w.as(w.issue(pki.HostIdentity(fleetID, "cinnabar"))),
		w.as(w.issue(pki.OperatorIdentity(fleetID, "vic"))),
		w.as(w.issue(pki.OperatorIdentity(fleetID, "dana"))),
		w.as(w.issue(pki.OperatorIdentity(fleetID, "abe"))),
		w.as(w.issue(pki.OperatorIdentity(fleetID, "sue"))),
		w.as(w.issue(pki.OperatorIdentity(fleetID, "cameron"))),
		w.as(w.issue(pki.OperatorIdentity(fleetID, "mallory"))),
		w.as(w.issue(pki.CoordinatorIdentity(fleetID, "other"))),
		w.as(expiredAdmin),
	}
	methods := 0
	for _, desc := range []grpc.ServiceDesc{
		fleetv1.EnrolmentService_ServiceDesc, fleetv1.HostService_ServiceDesc, fleetv1.OperatorService_ServiceDesc, grpc_health_v1.Health_ServiceDesc,
	} {
		for _, m := range desc.Methods {
			methods++
			authorizationRow(t, conns, "/"+desc.ServiceName+"/"+m.MethodName, want, func(ctx context.Context, c *grpc.ClientConn, full string) error {
				return c.Invoke(ctx, full, &emptypb.Empty{}, &emptypb.Empty{})
			})
		}
		for _, m := range desc.Streams {
			methods++
			authorizationRow(t, conns, "/"+desc.ServiceName+"/"+m.StreamName, want, func(ctx context.Context, c *grpc.ClientConn, full string) error {
				s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full)
				if err != nil {
					return err
				}
				if err := s.SendMsg(&emptypb.Empty{}); err != nil {
					return s.RecvMsg(&emptypb.Empty{})
				}
				if err := s.CloseSend(); err != nil {
					return err
				}
				return s.RecvMsg(&emptypb.Empty{})
			})
		}
	}
	if methods != len(want) {
		t.Errorf("%d methods, %d rows in the matrix", methods, len(want))
	}
}

func authorizationRow(t *testing.T, conns []*grpc.ClientConn, full string, want map[string]string, call func(context.Context, *grpc.ClientConn, string) error) {
	t.Helper()
	row, ok := want[full]
	if !ok {
		t.Errorf("%s: no row in the matrix", full)
		return
	}
	for i, conn := range conns {
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		err := call(ctx, conn, full)
		// Whoever is no operator, or banned, is cut off a moment after a row that changes
		// who is one: a call that is under way then has no answer, and the next one has.
		for tries := 0; status.Code(err) == codes.Unavailable && tries < 3; tries++ {
			err = call(ctx, conn, full)
		}
		cancel()
		code := status.Code(err)
		r, _ := refusal.Of(err)
		refused := code == codes.PermissionDenied || code == codes.Unauthenticated
		// An enrolment without a token is refused too, but by the service.
		if r.Code == refusal.TokenUnknown || r.Code == refusal.Malformed {
			refused = false
		}
		if refused == (row[i] == '+') {
			t.Errorf("%s by %s: got %v, want allowed: %t", full, callers[i], err, row[i] == '+')
		}
		if refused && r.Code == "" {
			t.Errorf("%s by %s: refused without a reason: %v", full, callers[i], err)
		}
	}
}

// TestStrangers checks that certificates of other CAs, other fleets and ended
// ones beyond the grace get no connection at all.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	other, err := pki.NewCA(fleetID, w.clock.now())
	check(t, err)
	ended := w.issue(pki.HostIdentity(fleetID, "pyrite"))
	w.clock.advance(pki.HostTTL + pki.RenewGrace + 2*time.Hour)
	issue := func(ca *pki.CA, id pki.Identity) tls.Certificate {
		key, err := pki.NewKey()
		check(t, err)
		der, err := ca.Issue(id, key.Public(), w.clock.now(), pki.HostTTL)
		check(t, err)
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	for name, cert := range map[string]tls.Certificate{
		"other CA":    issue(other, pki.HostIdentity(fleetID, "galena")),
		"other fleet": issue(w.ca, pki.HostIdentity("second", "galena")),
		"long ended":  ended,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := fleetv1.NewHostServiceClient(w.as(cert)).GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
			if status.Code(err) != codes.Unavailable {
				t.Errorf("got %v, want no connection", err)
			}
		})
	}
	t.Run("wrong pin", func(t *testing.T) {
		conn := w.dial(pki.EnrolTLS(fleetID, fleet.DigestOf(other.Cert.Raw), w.clock.now))
		_, err := fleetv1.NewEnrolmentServiceClient(conn).Enrol(t.Context(), &fleetv1.EnrolRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want no connection", err)
		}
	})
	t.Run("plain", func(t *testing.T) {
		conf := &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Time: w.clock.now,
			RootCAs: x509.NewCertPool(), ServerName: "coordinator",
		}
		_, err := fleetv1.NewEnrolmentServiceClient(w.dial(conf)).Enrol(t.Context(), &fleetv1.EnrolRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want no connection", err)
		}
	})
}
