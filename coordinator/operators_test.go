package coordinator_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// newcomer is an operator whose key never leaves them.
type newcomer struct {
	w    *world
	key  tls.Certificate
	csr  []byte
	conn fleetv1.OperatorServiceClient
}

func (w *world) newcomer() *newcomer {
	w.t.Helper()
	key, err := pki.NewKey()
	check(w.t, err)
	csr, err := pki.NewCSR(key)
	check(w.t, err)
	return &newcomer{w: w, key: tls.Certificate{PrivateKey: key}, csr: csr}
}

func (n *newcomer) use(der []byte) {
	n.w.t.Helper()
	n.key.Certificate = [][]byte{der}
	n.conn = fleetv1.NewOperatorServiceClient(n.w.as(n.key))
}

func (n *newcomer) list() error {
	_, err := n.conn.ListOperators(n.w.t.Context(), &fleetv1.ListOperatorsRequest{})
	return err
}

func (w *world) addOperator(as, name fleet.OperatorName, role string, csr []byte) (*fleetv1.AddOperatorResponse, error) {
	return w.operator(as).AddOperator(w.t.Context(), &fleetv1.AddOperatorRequest{Name: string(name), Role: role, Csr: csr})
}

func (w *world) removeOperator(as, name fleet.OperatorName) (*fleetv1.RemoveOperatorResponse, error) {
	return w.operator(as).RemoveOperator(w.t.Context(), &fleetv1.RemoveOperatorRequest{Name: string(name), Reason: "left"})
}

// TestOperatorComesAndGoes: the key stays with the operator, the certificate
// counts at once, removal cuts open streams and outlives restarts, inventories
// of checkouts that are behind, and the loss of the store.
func TestOperatorComesAndGoes(t *testing.T) {
	w := newWorld(t)
	n := w.newcomer()
	added, err := w.addOperator("cameron", "ada", "viewer", n.csr)
	check(t, err)
	n.use(added.GetCertificate())
	check(t, n.list())
	again, err := w.addOperator("cameron", "ada", "viewer", n.csr) // as after a lost answer
	check(t, err)
	if !again.GetOperator().GetChanged().AsTime().Equal(added.GetOperator().GetChanged().AsTime()) {
		t.Error("adding who is there changes something")
	}
	// Another certificate in the same name counts for nothing.
	_, err = w.operator("ada").ListOperators(t.Context(), &fleetv1.ListOperatorsRequest{})
	wantRefusal(t, err, codes.PermissionDenied, refusal.IdentitySuperseded)
	// A change of role needs no request.
	_, err = w.addOperator("cameron", "ada", "deployer", nil)
	check(t, err)
	_, err = n.conn.StatBlob(t.Context(), &fleetv1.StatBlobRequest{Digest: string(fleet.DigestOf(nil))})
	if status.Code(err) == codes.PermissionDenied {
		t.Errorf("a deployer by now: %v", err)
	}

	follow, err := n.conn.WatchEvents(t.Context(), &fleetv1.WatchEventsRequest{FromSeq: 1, Follow: true})
	check(t, err)
	upload, err := n.conn.PutBlob(t.Context())
	check(t, err)
	_, err = follow.Recv()
	check(t, err)
	gone, err := w.removeOperator("cameron", "ada")
	check(t, err)
	if gone.GetConnectionsCut() == 0 || !gone.GetOperator().GetRemoved() {
		t.Errorf("removed: %v", gone)
	}
	for err == nil {
		_, err = follow.Recv()
	}
	wantRefusal(t, err, codes.PermissionDenied, refusal.NotAllowed)
	wantRefusal(t, n.list(), codes.PermissionDenied, refusal.NotAllowed)
	if _, err := upload.CloseAndRecv(); err == nil {
		t.Error("an open upload goes on")
	}

	w.stop()
	w.start()
	wantRefusal(t, n.list(), codes.PermissionDenied, refusal.NotAllowed)

	behind := &fleetv1.ApplyInventoryRequest{Operators: []*fleetv1.Operator{
		{Name: "cameron", Role: "admin"}, {Name: "ada", Role: "deployer"},
	}}
	_, err = w.operator("cameron").ApplyInventory(t.Context(), behind)
	check(t, err)
	wantRefusal(t, n.list(), codes.PermissionDenied, refusal.NotAllowed)
	behind.Operators[1] = added.GetOperator()
	_, err = w.operator("cameron").ApplyInventory(t.Context(), behind)
	check(t, err)
	wantRefusal(t, n.list(), codes.PermissionDenied, refusal.NotAllowed)

	// The store is lost; the repository still knows, whatever the kit says.
	w.wipe()
	n.use(n.key.Certificate[0])
	_, err = w.operator("cameron").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{Operators: []*fleetv1.Operator{
		{Name: "cameron", Role: "admin"}, {Name: "vic", Role: "viewer"}, gone.GetOperator(),
	}})
	check(t, err)
	wantRefusal(t, n.list(), codes.PermissionDenied, refusal.NotAllowed)

	// A new key brings them back; the old one stays out.
	fresh := w.newcomer()
	w.clock.advance(time.Second)
	back, err := w.addOperator("cameron", "ada", "viewer", fresh.csr)
	check(t, err)
	fresh.use(back.GetCertificate())
	check(t, fresh.list())
	wantRefusal(t, n.list(), codes.PermissionDenied, refusal.IdentitySuperseded)
	for kind, want := range map[string]int{"operator-added": 1} {
		if got, _ := count(w.events(""), kind); got != want {
			t.Errorf("%d events %s, want %d", got, kind, want)
		}
	}
}

// TestOperatorStaysWithoutFleetFile: who was added is not in every checkout yet.
func TestOperatorStaysWithoutFleetFile(t *testing.T) {
	w := newWorld(t)
	n := w.newcomer()
	added, err := w.addOperator("cameron", "ada", "viewer", n.csr)
	check(t, err)
	n.use(added.GetCertificate())
	_, err = w.operator("cameron").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{Operators: []*fleetv1.Operator{{Name: "cameron", Role: "admin"}}})
	check(t, err)
	check(t, n.list())
	if _, err := w.operator("vic").ListOperators(t.Context(), &fleetv1.ListOperatorsRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("one who was only named in the fleet file: %v", err)
	}
}

func TestOperatorRefusals(t *testing.T) {
	w := newWorld(t)
	n := w.newcomer()
	for name, tc := range map[string]struct {
		req    *fleetv1.AddOperatorRequest
		code   codes.Code
		reason fleet.ReasonCode
	}{
		"bad name":          {&fleetv1.AddOperatorRequest{Name: "../x", Role: "viewer", Csr: n.csr}, codes.InvalidArgument, refusal.Malformed},
		"bad role":          {&fleetv1.AddOperatorRequest{Name: "ada", Role: "king", Csr: n.csr}, codes.InvalidArgument, refusal.Malformed},
		"no request":        {&fleetv1.AddOperatorRequest{Name: "ada", Role: "viewer"}, codes.FailedPrecondition, refusal.NotFound},
		"malformed request": {&fleetv1.AddOperatorRequest{Name: "ada", Role: "viewer", Csr: []byte("x")}, codes.InvalidArgument, refusal.Malformed},
		"own role":          {&fleetv1.AddOperatorRequest{Name: "cameron", Role: "viewer"}, codes.FailedPrecondition, refusal.NotAllowed},
	} {
		_, err := w.operator("cameron").AddOperator(t.Context(), tc.req)
		if r, ok := refusal.Of(err); !ok || status.Code(err) != tc.code || r.Code != tc.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := w.removeOperator("cameron", "cameron")
	wantRefusal(t, err, codes.FailedPrecondition, refusal.NotAllowed)
	_, err = w.removeOperator("cameron", "nobody")
	wantRefusal(t, err, codes.NotFound, refusal.NotFound)
	_, err = w.operator("cameron").RemoveOperator(t.Context(), &fleetv1.RemoveOperatorRequest{Name: "vic"})
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	for name, bad := range map[string]*fleetv1.Operator{
		"key":      {Name: "ada", Role: "viewer", Key: "zz", Changed: timestamppb.New(w.clock.now())},
		"no time":  {Name: "ada", Role: "viewer", Removed: true},
		"reason":   {Name: "ada", Role: "viewer", Changed: timestamppb.New(w.clock.now()), Reason: strings.Repeat("x", 1<<20)},
		"key only": {Name: "ada", Role: "viewer", Key: strings.Repeat("a", 64)},
	} {
		_, err := w.operator("cameron").ApplyInventory(t.Context(), &fleetv1.ApplyInventoryRequest{Operators: []*fleetv1.Operator{{Name: "cameron", Role: "admin"}, bad}})
		if r, _ := refusal.Of(err); r.Code != refusal.Malformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOperatorRenews(t *testing.T) {
	w := newWorld(t)
	n := w.newcomer()
	added, err := w.addOperator("cameron", "ada", "viewer", n.csr)
	check(t, err)
	n.use(added.GetCertificate())
	renew := func(csr []byte) ([]byte, error) {
		r, err := n.conn.RenewOperator(t.Context(), &fleetv1.RenewOperatorRequest{Csr: csr})
		return r.GetCertificate(), err
	}
	_, err = renew(n.csr)
	wantRefusal(t, err, codes.FailedPrecondition, refusal.NotAllowed) // Too early.
	w.clock.advance(pki.OperatorTTL/2 + time.Hour)
	_, err = renew(w.newcomer().csr)
	wantRefusal(t, err, codes.PermissionDenied, refusal.NotAllowed)
	_, err = renew([]byte("x"))
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)
	der, err := renew(n.csr)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	if left := leaf.NotAfter.Sub(w.clock.now()); left < pki.OperatorTTL-time.Hour {
		t.Errorf("good for %s", left)
	}
	n.use(der)
	check(t, n.list())
	list, err := n.conn.ListOperators(t.Context(), &fleetv1.ListOperatorsRequest{})
	check(t, err)
	for _, o := range list.GetOperators() {
		if o.GetOperator().GetName() == "ada" && (!o.GetExpires().AsTime().Equal(leaf.NotAfter) || o.GetLastSeen() == nil) {
			t.Errorf("ada: %v", o)
		}
	}
	w.stop()
	w.start() // What was seen is remembered.
	list, err = w.operator("vic").ListOperators(t.Context(), &fleetv1.ListOperatorsRequest{})
	check(t, err)
	seen := false
	for _, o := range list.GetOperators() {
		seen = seen || o.GetOperator().GetName() == "ada" && o.GetLastSeen() != nil
	}
	if !seen {
		t.Error("after a restart nobody was seen")
	}
}

func (w *world) propose(op fleetv1.OperatorServiceClient, id fleet.ReleaseID, ref fleet.BlobRef) error {
	_, err := op.Propose(w.t.Context(), &fleetv1.ProposeRequest{Release: string(id), Digest: string(ref.Digest), Size: ref.Size, Revision: "rev", Count: 1})
	return err
}

func TestProposals(t *testing.T) {
	w := newWorld(t)
	op := w.operator("dana")
	data, ref := content("proposal")
	wantRefusal(t, w.propose(op, "r1", ref), codes.FailedPrecondition, refusal.Incomplete)
	check(t, w.upload(op, data, ref))
	check(t, w.propose(op, "r1", ref))
	check(t, w.propose(op, "r1", ref)) // Again changes nothing.
	wantRefusal(t, w.propose(op, "../x", ref), codes.InvalidArgument, refusal.Malformed)
	wantRefusal(t, w.propose(op, "r9", fleet.BlobRef{Digest: ref.Digest, Size: 1 << 40}), codes.InvalidArgument, "too-large")
	get := func(id string) ([]byte, *fleetv1.Proposal, error) {
		s, err := w.operator("vic").GetProposal(t.Context(), &fleetv1.GetProposalRequest{Release: id})
		check(t, err)
		var all []byte
		var what *fleetv1.Proposal
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return all, what, nil
			}
			if err != nil {
				return nil, nil, err
			}
			if m.GetProposal() != nil {
				what = m.GetProposal()
			}
			all = append(all, m.GetData()...)
		}
	}
	got, what, err := get("r1")
	check(t, err)
	if string(got) != string(data) || what.GetActor() != "operator/dana" || what.GetRevision() != "rev" {
		t.Errorf("%d bytes of %v", len(got), what)
	}
	_, _, err = get("r2")
	wantRefusal(t, err, codes.NotFound, refusal.NotFound)

	// Committed, it waits no longer, and is never proposed again.
	w.publish("r1", "", 1, galena)
	list, err := w.operator("vic").ListProposals(t.Context(), &fleetv1.ListProposalsRequest{})
	check(t, err)
	if n := len(list.GetProposals()); n != 0 {
		t.Errorf("%d wait", n)
	}
	wantRefusal(t, w.propose(op, "r1", ref), codes.AlreadyExists, refusal.Malformed)
	check(t, w.propose(op, "r3", ref))
	w.clock.advance(31 * 24 * time.Hour)
	list, err = w.operator("vic").ListProposals(t.Context(), &fleetv1.ListProposalsRequest{})
	check(t, err)
	if n := len(list.GetProposals()); n != 0 {
		t.Errorf("%d wait for ever", n)
	}
	if n, _ := count(w.events(""), "release-proposed"); n != 2 {
		t.Errorf("%d events", n)
	}
}

func TestExportEvents(t *testing.T) {
	w := newWorld(t)
	w.publish("r1", "", 1, galena)
	export := func(from uint64) []*fleetv1.ExportEventsResponse {
		s, err := w.operator("vic").ExportEvents(t.Context(), &fleetv1.ExportEventsRequest{FromSeq: from})
		check(t, err)
		return collect(t, s)
	}
	all, events := export(0), w.events("")
	if len(all) != len(events) || len(all) < 3 {
		t.Fatalf("%d records, %d events", len(all), len(events))
	}
	for i, r := range all {
		if "sha256:"+events[i].GetHash() != string(fleet.DigestOf(r.GetRecord())) {
			t.Errorf("record %d: its hash is not that of the event", i+1)
		}
	}
	if rest := export(3); len(rest) != len(all)-2 {
		t.Errorf("%d records from the third on", len(rest))
	}
	if none := export(1 << 40); len(none) != 0 {
		t.Errorf("%d records beyond the end", len(none))
	}
}
