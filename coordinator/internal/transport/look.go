package transport

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// maxLookRecords bounds the records of one look: with all of their size they
// still go into one message.
const maxLookRecords = 16

// LookAtLog returns the head of the event log, what was countersigned of it, and
// records that the caller remembers.
func (o *operatorService) LookAtLog(ctx context.Context, req *fleetv1.LookAtLogRequest) (*fleetv1.LookAtLogResponse, error) {
	if n := len(req.GetRecords()); n > maxLookRecords {
		return nil, malformed(fmt.Errorf("%d records, at most %d", n, maxLookRecords))
	}
	// The signatures first: what they are about is there when the head is read.
	out := &fleetv1.LookAtLogResponse{Looks: o.s.o.Looks.Shown()}
	h, err := o.s.o.Log.Head(ctx)
	if err != nil {
		return nil, err
	}
	if h.Seq > 0 {
		out.Head = &fleetv1.LogHead{Seq: h.Seq, Hash: h.Hash}
	}
	for _, seq := range req.GetRecords() {
		record, err := o.s.o.Log.Record(ctx, seq)
		if err != nil {
			return nil, err
		}
		out.Records = append(out.Records, record)
	}
	return out, nil
}

// Countersign keeps the caller's signature of a head.
func (o *operatorService) Countersign(ctx context.Context, req *fleetv1.CountersignRequest) (*fleetv1.CountersignResponse, error) {
	c := callerOf(ctx)
	pub, ok := c.Leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, malformed(fmt.Errorf("the key of %s is not ed25519", c.Path()))
	}
	if err := o.s.o.Looks.Take(ctx, fleet.OperatorName(c.Name), pub, req.GetLook()); err != nil {
		return nil, err
	}
	return &fleetv1.CountersignResponse{}, nil
}
