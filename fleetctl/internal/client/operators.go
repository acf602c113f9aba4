package client

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/countcodec"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/kit"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
	"google.golang.org/grpc"
)

// OperatorStatus is what the coordinator says of an operator, for people:
// nothing in it is verified.
type OperatorStatus struct {
	Operator
	LastSeen time.Time
	// Expires is the end of the certificate that was used last.
	Expires time.Time
	// CA is the key id of the CA that it is of, hex; empty where nobody knows.
	CA string
}

func operator(o *fleetv1.Operator) Operator {
	return Operator{
		Name: fleet.OperatorName(text(o.GetName())), Role: fleet.Role(text(o.GetRole())), Key: text(o.GetKey()),
		Changed: when(o.GetChanged()), Removed: o.GetRemoved(), Reason: text(o.GetReason()),
	}
}

// AddOperator has a certificate issued over the key of a request and the
// operator recorded; without a request it changes the role. It may be called
// again after a failure.
func (c *Client) AddOperator(ctx context.Context, name fleet.OperatorName, role fleet.Role, csr []byte) (Operator, *x509.Certificate, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.AddOperator(ctx, &fleetv1.AddOperatorRequest{Name: string(name), Role: string(role), Csr: csr})
	if err != nil {
		return Operator{}, nil, fmt.Errorf("adding operator %s: %w", name, c.explain(ctx, err))
	}
	if len(csr) == 0 {
		return operator(res.GetOperator()), nil, nil
	}
	leaf, err := x509.ParseCertificate(res.GetCertificate())
	if err != nil {
		return Operator{}, nil, fmt.Errorf("adding operator %s: %w: %w", name, ErrRefused, err)
	}
	return operator(res.GetOperator()), leaf, nil
}

// RemoveOperator ends what an operator may do and says how many connections
// were cut.
func (c *Client) RemoveOperator(ctx context.Context, name fleet.OperatorName, reason string) (Operator, int, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.RemoveOperator(ctx, &fleetv1.RemoveOperatorRequest{Name: string(name), Reason: reason})
	if err != nil {
		return Operator{}, 0, fmt.Errorf("telling the coordinator: %w", c.explain(ctx, err))
	}
	return operator(res.GetOperator()), int(res.GetConnectionsCut()), nil
}

// RenewOperator has the next certificate of the caller issued.
func (c *Client) RenewOperator(ctx context.Context, csr []byte) (*x509.Certificate, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.RenewOperator(ctx, &fleetv1.RenewOperatorRequest{Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("renewing the certificate: %w", c.explain(ctx, err))
	}
	leaf, err := x509.ParseCertificate(res.GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("renewing the certificate: %w: %w", ErrRefused, err)
	}
	return leaf, nil
}

// Operators asks who may call.
func (c *Client) Operators(ctx context.Context) ([]OperatorStatus, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	codec := countcodec.New(kit.MaxOperators)
	res, err := c.rpc.ListOperators(ctx, &fleetv1.ListOperatorsRequest{}, grpc.MaxCallRecvMsgSize(maxKeysMessage), grpc.ForceCodecV2(codec))
	if codec.Err() != nil {
		return nil, fmt.Errorf("asking for the operators: %w", tooMuch("more than %d operators", kit.MaxOperators))
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the operators: %w", c.explain(ctx, err))
	}
	out := make([]OperatorStatus, 0, len(res.GetOperators()))
	for _, o := range res.GetOperators() {
		out = append(out, OperatorStatus{Operator: operator(o.GetOperator()), LastSeen: when(o.GetLastSeen()), Expires: when(o.GetExpires()), CA: text(o.GetCa())})
	}
	return out, nil
}
