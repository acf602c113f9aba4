package transport

import (
	"context"

	"github.com/cameronraysmith/fleet/coordinator/internal/enrol"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

type enrolmentService struct {
	fleetv1.UnimplementedEnrolmentServiceServer
	s *Server
}

// Enrol exchanges a token for a host identity.
func (e *enrolmentService) Enrol(ctx context.Context, req *fleetv1.EnrolRequest) (*fleetv1.EnrolResponse, error) {
	cert, err := e.s.o.Enroller.Enrol(ctx, enrol.Request{
		Machine: fleet.MachineName(req.GetMachine()), Token: req.GetToken(), CSR: req.GetCsr(),
		HostKeys: req.GetHostKeys(), MAC: req.GetHostKeysMac(), Instance: req.GetInstanceId(),
	})
	if err != nil {
		return nil, err
	}
	return &fleetv1.EnrolResponse{Certificate: cert, Ca: e.s.o.Authority.DER(), Roots: e.s.o.Publisher.Roots()}, nil
}
