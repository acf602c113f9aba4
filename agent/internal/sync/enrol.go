package sync

import (
	"context"
	"fmt"
	"time"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"

	"github.com/cameronraysmith/fleet/pkg/pki"
)

// Enrolment is what a host sends to enrol.
type Enrolment struct {
	Join       pki.Join
	CSR        []byte
	HostKeys   []byte
	InstanceID string
	// Attempt counts from 0; each begins at another address.
	Attempt int
}

// Enrolled is what it gets.
type Enrolled struct {
	Renewed
	Roots [][]byte
}

// Enrol asks the coordinator that the join string pins for a host identity.
// addresses override those of the join string; empty: they don't. Asking again
// with the same token and key is answered again.
func Enrol(ctx context.Context, e Enrolment, addresses []string, now func() time.Time) (Enrolled, error) {
	if len(addresses) == 0 {
		addresses = e.Join.Addresses
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := dial(from(addresses, e.Attempt), pki.EnrolTLS(e.Join.Fleet, e.Join.CA, now), nil)
	if err != nil {
		return Enrolled{}, err
	}
	defer func() { _ = conn.Close() }()
	m, err := fleetv1.NewEnrolmentServiceClient(conn).Enrol(ctx, &fleetv1.EnrolRequest{
		Machine: string(e.Join.Machine), Token: e.Join.Token(), Csr: e.CSR,
		HostKeys: e.HostKeys, HostKeysMac: e.Join.MAC(e.HostKeys), InstanceId: e.InstanceID,
	}, withRoots())
	if err := explain(ctx, err); err != nil {
		return Enrolled{}, fmt.Errorf("enrolling %s: %w", e.Join.Machine, err)
	}
	return Enrolled{
		Renewed: Renewed{Certificate: m.GetCertificate(), CAs: m.GetCa()}, Roots: m.GetRoots(),
	}, nil
}
