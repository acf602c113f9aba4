package coordinator_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// signer signs with the key of a certificate.
func signer(t *testing.T, c tls.Certificate) release.Signer {
	t.Helper()
	key, ok := c.PrivateKey.(ed25519.PrivateKey)
	if !ok {
		t.Fatalf("a key of type %T", c.PrivateKey)
	}
	return release.NewSigner(key)
}

// TestCountersign: a head that an operator signed is kept over a restart, shown
// to all operators and told to hosts; what is not on the log, or is not the
// caller's, is not.
func TestCountersign(t *testing.T) {
	w := newWorld(t)
	w.publish("r1", "", 1, []fleet.MachineName{"galena"})
	vic := w.issue(pki.OperatorIdentity(fleetID, "vic"))
	op := fleetv1.NewOperatorServiceClient(w.as(vic))
	look := func(records ...uint64) *fleetv1.LookAtLogResponse {
		t.Helper()
		res, err := op.LookAtLog(t.Context(), &fleetv1.LookAtLogRequest{Records: records})
		check(t, err)
		return res
	}
	first := look(1, 1<<40)
	if first.GetHead().GetSeq() < 3 || len(first.GetLooks()) != 0 || len(first.GetRecords()) != 2 || len(first.GetRecords()[0]) == 0 || len(first.GetRecords()[1]) != 0 {
		t.Fatalf("shown: %v", first)
	}
	head := fleet.LogHead{Seq: first.GetHead().GetSeq(), Hash: first.GetHead().GetHash()}
	put := func(l fleet.Look, by tls.Certificate) error {
		t.Helper()
		env, err := release.SealLook(l, signer(t, by))
		check(t, err)
		_, err = op.Countersign(t.Context(), &fleetv1.CountersignRequest{Look: env})
		return err
	}
	good := fleet.Look{Fleet: fleetID, Operator: "vic", Head: head, Time: w.clock.now()}
	for name, c := range map[string]struct {
		edit func(*fleet.Look)
		by   tls.Certificate
		code codes.Code
		why  fleet.ReasonCode
	}{
		"another operator's":  {func(l *fleet.Look) { l.Operator = "cameron" }, vic, codes.InvalidArgument, refusal.Malformed},
		"another fleet's":     {func(l *fleet.Look) { l.Fleet = "other" }, vic, codes.InvalidArgument, refusal.Malformed},
		"with another key":    {func(*fleet.Look) {}, w.issue(pki.OperatorIdentity(fleetID, "vic")), codes.FailedPrecondition, release.ErrUnknownKey.Code},
		"of another record":   {func(l *fleet.Look) { l.Head.Hash = strings.Repeat("ab", 32) }, vic, codes.FailedPrecondition, refusal.StoreDamaged},
		"of a record to come": {func(l *fleet.Look) { l.Head.Seq += 1000 }, vic, codes.FailedPrecondition, refusal.StoreDamaged},
	} {
		l := good
		c.edit(&l)
		if err := put(l, c.by); err == nil {
			t.Errorf("%s: taken", name)
		} else {
			wantRefusal(t, err, c.code, c.why)
		}
	}
	_, err := op.Countersign(t.Context(), &fleetv1.CountersignRequest{Look: []byte(strings.Repeat("x", fleet.MaxLookBytes+1))})
	wantRefusal(t, err, codes.InvalidArgument, release.ErrTooLarge.Code)
	_, err = op.LookAtLog(t.Context(), &fleetv1.LookAtLogRequest{Records: make([]uint64, 17)})
	wantRefusal(t, err, codes.InvalidArgument, refusal.Malformed)

	check(t, put(good, vic))
	check(t, put(good, vic)) // again, as after an answer that was lost
	w.publish("r2", "r1", 2, []fleet.MachineName{"galena"})
	older := good
	older.Head = fleet.LogHead{Seq: 1, Hash: strings.TrimPrefix(string(fleet.DigestOf(first.GetRecords()[0])), "sha256:")}
	check(t, put(older, vic))
	w.stop()
	w.start()
	op = fleetv1.NewOperatorServiceClient(w.as(vic))
	shown := look().GetLooks()
	leaf, err := x509.ParseCertificate(vic.Certificate[0])
	check(t, err)
	pub, _ := leaf.PublicKey.(ed25519.PublicKey)
	if len(shown) != 1 {
		t.Fatalf("%d looks", len(shown))
	}
	if l, err := release.OpenLook(shown[0], pub); err != nil || l.Head != head {
		t.Errorf("kept: %+v, %v", l, err)
	}
	d, err := w.enrolled("galena").host.GetDesired(t.Context(), &fleetv1.GetDesiredRequest{})
	check(t, err)
	if got := d.GetLogHead(); got.GetSeq() != head.Seq || got.GetHash() != head.Hash {
		t.Errorf("hosts are told %v", got)
	}
}
