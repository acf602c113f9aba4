package transport

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

var (
	// errEarly is a renewal that would change little: each one is an event.
	errEarly = errors.New("more than half of the certificate's life is left")
	// errOtherKey is a renewal over another key.
	errOtherKey = errors.New("the request is over another key than the certificate")
)

// recordOf reads what the fleet's repository has of an operator.
func recordOf(p *fleetv1.Operator, name fleet.OperatorName, role fleet.Role) (registry.Operator, error) {
	o := registry.Operator{Name: name, Role: role, Key: p.GetKey(), Removed: p.GetRemoved(), Reason: p.GetReason()}
	if p.GetChanged() != nil {
		o.Changed = p.GetChanged().AsTime()
	}
	if o.Key != "" {
		if _, err := fleet.ParseDigest("sha256:" + o.Key); err != nil {
			return o, fmt.Errorf("operator %s: its key is no fingerprint", name)
		}
	}
	switch {
	case len(o.Reason) > maxText:
		return o, fmt.Errorf("operator %s: the reason is too long", name)
	case o.Changed.IsZero() && (o.Removed || o.Key != ""):
		return o, fmt.Errorf("operator %s: a record has to say when it was made", name)
	}
	return o, nil
}

func operatorToProto(o registry.Operator) *fleetv1.Operator {
	return &fleetv1.Operator{
		Name: string(o.Name), Role: string(o.Role), Key: o.Key, Changed: timeToProto(o.Changed), Removed: o.Removed, Reason: o.Reason,
	}
}

// AddOperator issues a certificate and records who may use it.
func (o *operatorService) AddOperator(ctx context.Context, req *fleetv1.AddOperatorRequest) (*fleetv1.AddOperatorResponse, error) {
	name, err := fleet.ParseOperatorName(req.GetName())
	if err != nil {
		return nil, malformed(err)
	}
	role, err := fleet.ParseRole(req.GetRole())
	if err != nil {
		return nil, malformed(err)
	}
	next := registry.Operator{Name: name, Role: role}
	out := &fleetv1.AddOperatorResponse{}
	if len(req.GetCsr()) > 0 {
		pub, err := pki.ParseCSR(req.GetCsr())
		if err != nil {
			return nil, malformed(err)
		}
		if next.Key, err = pki.KeyFingerprint(pub); err != nil {
			return nil, malformed(err)
		}
		// Before it is recorded: what can't be issued must not count.
		cert, err := o.s.o.Authority.Operator(name, pub)
		if err != nil {
			return nil, err
		}
		out.Certificate = cert.Raw
	}
	c := callerOf(ctx)
	done, err := o.s.o.Registry.SetOperator(ctx, c.Path(), fleet.OperatorName(c.Name), next)
	if err != nil {
		return nil, err
	}
	o.s.cutOperators()
	out.Operator = operatorToProto(done)
	return out, nil
}

// RemoveOperator cuts an operator off.
func (o *operatorService) RemoveOperator(ctx context.Context, req *fleetv1.RemoveOperatorRequest) (*fleetv1.RemoveOperatorResponse, error) {
	name, err := fleet.ParseOperatorName(req.GetName())
	if err != nil {
		return nil, malformed(err)
	}
	if n := len(req.GetReason()); n == 0 || n > maxText {
		return nil, malformed(fmt.Errorf("a reason is needed, of at most %d bytes", maxText))
	}
	c := callerOf(ctx)
	gone, err := o.s.o.Registry.RemoveOperator(ctx, c.Path(), fleet.OperatorName(c.Name), name, req.GetReason())
	if err != nil {
		return nil, err
	}
	cut := o.s.cutOperators()
	return &fleetv1.RemoveOperatorResponse{Operator: operatorToProto(gone), ConnectionsCut: uint32(cut)}, nil //nolint:gosec // Few.
}

// ListOperators lists who may call.
func (o *operatorService) ListOperators(context.Context, *fleetv1.ListOperatorsRequest) (*fleetv1.ListOperatorsResponse, error) {
	out := &fleetv1.ListOperatorsResponse{}
	for _, op := range o.s.o.Registry.Operators() {
		s := &fleetv1.OperatorStatus{Operator: operatorToProto(op)}
		if seen := o.s.o.Registry.OperatorSeen(op.Name); seen.At != 0 {
			s.LastSeen, s.Expires, s.Ca = timestamppb.New(time.Unix(seen.At, 0)), timeToProto(seen.Expires), seen.CA
		}
		out.Operators = append(out.Operators, s)
	}
	return out, nil
}

// RenewOperator issues the caller's next certificate. A removed operator does
// not get here, and a new key is an admin's to admit.
func (o *operatorService) RenewOperator(ctx context.Context, req *fleetv1.RenewOperatorRequest) (*fleetv1.RenewOperatorResponse, error) {
	c := callerOf(ctx)
	pub, err := pki.ParseCSR(req.GetCsr())
	if err != nil {
		return nil, malformed(err)
	}
	if same, ok := c.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(pub) {
		return nil, errOtherKey
	}
	if left := c.Leaf.NotAfter.Sub(o.s.o.Now()); left > c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/2 && o.s.o.Authority.Issues(c.Leaf) {
		return nil, errEarly
	}
	cert, err := o.s.o.Authority.Operator(fleet.OperatorName(c.Name), pub)
	if err != nil {
		return nil, err
	}
	err = o.s.o.Log.Commit(ctx, audit.Change{Entries: []audit.Entry{{
		Actor: c.Path(), Kind: registry.KindOperatorRenewed, Message: "until " + cert.NotAfter.UTC().Format(time.DateOnly),
	}}})
	if err != nil {
		return nil, err
	}
	return &fleetv1.RenewOperatorResponse{Certificate: cert.Raw}, nil
}

// cutOperators ends the connections of all who are operators no longer, or
// whose key counts no longer: with these ends whatever goes on over them.
func (s *Server) cutOperators() int {
	s.auth.endStreams()
	return s.guard.cut(func(key string) bool {
		path, fingerprint, _ := strings.Cut(key, " ")
		name, ok := strings.CutPrefix(path, string(pki.KindOperator)+"/")
		if !ok {
			return false
		}
		o, ok := s.o.Registry.Operator(fleet.OperatorName(name))
		return !ok || o.Key != "" && o.Key != fingerprint
	})
}
