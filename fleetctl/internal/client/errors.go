package client

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// What a call can fail with, besides faults of the coordinator itself.
var (
	// ErrUnreachable is worth a retry: the coordinator did not answer.
	ErrUnreachable = errors.New("the coordinator cannot be reached")
	// ErrRefused is not: the coordinator said no, or isn't the coordinator.
	ErrRefused = errors.New("refused")
	// ErrConflict is a publish over a head that somebody else has moved.
	ErrConflict = errors.New("somebody published in the meantime")
	// ErrNotFound names something that the coordinator does not know; it is a
	// refusal too.
	ErrNotFound = fmt.Errorf("%w: not found", ErrRefused)
	// errOffset is an upload that another one of the same blob has overtaken.
	errOffset = fmt.Errorf("%w: the upload does not go on from there", ErrRefused)
)

// explain turns what a call returned into one of this package's errors, with
// the coordinator's reason and hint.
func (c *Client) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Canceled
	}
	code, said := status.Code(err), text(status.Convert(err).Message())
	hint := ""
	r, named := refusal.Of(err)
	if named {
		said, hint = text(r.Message), text(r.Hint)
	}
	if named && r.Code == refusal.HeadMoved {
		return ui.WithHint(fmt.Errorf("%w: %s", ErrConflict, said), hint)
	}
	if !named && code == codes.ResourceExhausted {
		// By gRPC itself, on either side.
		hint = "a message or its headers are larger than is taken here, or there"
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return c.unreachable(said, hint)
	case codes.Aborted:
		return ui.WithHint(fmt.Errorf("%w: %s", ErrConflict, said), hint)
	case codes.OutOfRange:
		return ui.WithHint(fmt.Errorf("%w: %s", errOffset, said), hint)
	case codes.NotFound:
		return ui.WithHint(fmt.Errorf("%w: %s", ErrNotFound, said), hint)
	case codes.InvalidArgument, codes.AlreadyExists, codes.PermissionDenied,
		codes.ResourceExhausted, codes.FailedPrecondition, codes.Unauthenticated:
		return ui.WithHint(fmt.Errorf("%w: %s", ErrRefused, said), hint)
	case codes.Unimplemented:
		return ui.WithHint(fmt.Errorf("%w: the coordinator does not know this call", ErrRefused), "update the coordinator")
	case codes.OK, codes.Canceled, codes.Unknown, codes.Internal, codes.DataLoss:
	}
	return ui.WithHint(fmt.Errorf("the coordinator failed: %s", said), hint)
}

// unreachable tells a coordinator that is away from one that is not the
// fleet's: the latter is a refusal by our own check.
func (c *Client) unreachable(said, hint string) error {
	hs := c.handshake.last()
	switch {
	case hs == nil:
		if hint == "" {
			hint = "is it running, and is " + c.address + " the right address? (--coordinator, or coordinator in fleet.yaml)"
		}
		return ui.WithHint(fmt.Errorf("%w: %s", ErrUnreachable, refusal.Cause(said)), hint)
	case errors.Is(hs, pki.ErrExpiredIdentity), errors.Is(hs, pki.ErrNotYetValid):
		return ui.WithHint(fmt.Errorf("%w: the coordinator's certificate: %w", ErrRefused, hs),
			`check the clocks of both sides; "fleetctl kit" makes a new certificate for the coordinator`)
	case errors.Is(hs, pki.ErrUnknownCA), errors.Is(hs, pki.ErrIdentity):
		return ui.WithHint(fmt.Errorf("%w: what answers at %s is not this fleet's coordinator: %w", ErrRefused, c.address, hs),
			"check the address; if it is right, somebody else answers there")
	}
	return ui.WithHint(fmt.Errorf("%w: TLS: %w", ErrUnreachable, hs), hint)
}
