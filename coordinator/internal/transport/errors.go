package transport

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/coordinator/internal/audit"
	"github.com/cameronraysmith/fleet/coordinator/internal/blob"
	"github.com/cameronraysmith/fleet/coordinator/internal/enrol"
	"github.com/cameronraysmith/fleet/coordinator/internal/looks"
	"github.com/cameronraysmith/fleet/coordinator/internal/publish"
	"github.com/cameronraysmith/fleet/coordinator/internal/registry"
	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pace"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// refuse makes a status error with a reason.
func refuse(code codes.Code, reason fleet.ReasonCode, message, hint string) error {
	return refusal.New(code, fleet.Reason{Code: reason, Message: message, Hint: hint})
}

// malformed refuses a request that makes no sense.
func malformed(err error) error {
	return refuse(codes.InvalidArgument, refusal.Malformed, err.Error(), "")
}

// answers says how each sentinel is told to callers.
var answers = []struct {
	err    error
	code   codes.Code
	reason fleet.ReasonCode
	hint   string
}{
	{registry.ErrBanned, codes.PermissionDenied, fleet.ReasonBanned, "an admin lifts the ban with fleetctl ban MACHINE --lift --reason TEXT"},
	{registry.ErrSuperseded, codes.PermissionDenied, refusal.IdentitySuperseded, "this machine was enrolled anew elsewhere: remove this copy, or enrol it again"},
	{registry.ErrDuplicate, codes.FailedPrecondition, fleet.ReasonDuplicate, "stop the other agent with this identity, or enrol one of the two anew"},
	{registry.ErrReplaced, codes.Aborted, refusal.Replaced, "nothing to do: the newer stream goes on"},
	{registry.ErrStopping, codes.Unavailable, refusal.Stopping, "try again in a moment"},
	{registry.ErrUnknownMachine, codes.NotFound, refusal.UnknownMachine, "check the name; publish once to bring the inventory up to date"},
	{registry.ErrNoAdmin, codes.FailedPrecondition, refusal.NotAllowed, "give at least one operator in fleet.yaml the role admin"},
	{registry.ErrOwnRole, codes.FailedPrecondition, refusal.NotAllowed, "have another admin do it"},
	{registry.ErrUnknownOperator, codes.NotFound, refusal.NotFound, "see fleetctl operator list"},
	{registry.ErrNoCertificate, codes.FailedPrecondition, refusal.NotFound, "name the request that they made: fleetctl operator add NAME --request FILE"},
	{registry.ErrTooManyOperators, codes.ResourceExhausted, refusal.TooMany, ""},
	{errEarly, codes.FailedPrecondition, refusal.NotAllowed, "nothing to do: it is good for long yet"},
	{errOtherKey, codes.PermissionDenied, refusal.NotAllowed, "a new key needs an admin: fleetctl operator request, then operator add"},
	{publish.ErrRootFork, codes.FailedPrecondition, release.ErrRootVersion.Code, "compare trust/root with the other people who publish: somebody else's version was published first"},
	{publish.ErrNoProposal, codes.NotFound, refusal.NotFound, "see fleetctl releases --waiting for those that wait"},
	{registry.ErrReport, codes.InvalidArgument, refusal.Malformed, ""},
	{registry.ErrNoKeys, codes.FailedPrecondition, refusal.HostKeysWanted, "the host attaches its keys to the next report"},
	{registry.ErrTooOften, codes.ResourceExhausted, refusal.TooMany, "the host tries again by itself; if this goes on, look at what it reports"},
	{registry.ErrKeys, codes.PermissionDenied, refusal.HostKeysChanged, "enrol the host anew"},

	{enrol.ErrUnknownToken, codes.Unauthenticated, refusal.TokenUnknown, "make a new join string with fleetctl token"},
	{enrol.ErrExpiredToken, codes.Unauthenticated, refusal.TokenExpired, "make a new join string with fleetctl token"},
	{enrol.ErrUsedToken, codes.Unauthenticated, refusal.TokenUsed, "find out who used it (fleetctl events), then make a new join string"},
	{enrol.ErrWrongMachine, codes.PermissionDenied, refusal.TokenMachine, "make a join string for this machine with fleetctl token"},
	{enrol.ErrTooMany, codes.ResourceExhausted, refusal.TooMany, "try again in a moment"},
	{enrol.ErrMalformed, codes.InvalidArgument, refusal.Malformed, ""},
	{enrol.ErrKey, codes.InvalidArgument, refusal.Malformed, "renew over the key of the current certificate"},

	{publish.ErrHeadMoved, codes.Aborted, refusal.HeadMoved, "somebody else published: look at fleetctl releases, then publish again"},
	{publish.ErrIncomplete, codes.FailedPrecondition, refusal.Incomplete, "publish again: what is there already is not sent twice"},
	{publish.ErrCommitted, codes.AlreadyExists, refusal.Malformed, "publish under a new release id"},
	{publish.ErrNothingDesired, codes.NotFound, refusal.NotFound, "publish something for it first"},
	{publish.ErrNoTarget, codes.FailedPrecondition, refusal.NoRollbackTarget, "publish the older source as a new generation instead"},
	{publish.ErrFuture, codes.FailedPrecondition, fleet.ReasonClock, "set the clocks of the publisher and of the coordinator, then publish again"},
	{publish.ErrTooMany, codes.ResourceExhausted, refusal.TooMany, ""},
	{publish.ErrUnnamed, codes.NotFound, refusal.NotFound, ""},

	{looks.ErrWrong, codes.InvalidArgument, refusal.Malformed, ""},
	{looks.ErrOtherLog, codes.FailedPrecondition, refusal.StoreDamaged, "the coordinator restored an older store, or its log was written anew: fleetctl status tells"},

	{blob.ErrNotFound, codes.NotFound, refusal.NotFound, "publish again: it uploads what is missing"},
	{blob.ErrTooLarge, codes.ResourceExhausted, release.ErrTooLarge.Code, ""},
	{blob.ErrNoSpace, codes.ResourceExhausted, refusal.DiskFull, "make room on the coordinator's disk, then do it again: nothing that was acknowledged is lost"},
	{blob.ErrOffset, codes.OutOfRange, refusal.Malformed, "ask how much is there, and go on from there"},
	{blob.ErrExcess, codes.InvalidArgument, refusal.Malformed, "what was sent is not what was announced"},
	{blob.ErrShort, codes.InvalidArgument, refusal.Malformed, "send the rest"},
	{blob.ErrDigest, codes.DataLoss, refusal.Malformed, "the bytes were altered on the way, or the file changed: publish again"},
	{blob.ErrSize, codes.InvalidArgument, refusal.Malformed, "digest and size do not belong together"},
	{blob.ErrDamaged, codes.DataLoss, refusal.NotFound, "publish again: it uploads the blob anew; check the coordinator's disk"},

	{pace.ErrStalled, codes.DeadlineExceeded, refusal.Stalled, "try again: it goes on from where it was"},
	{fleet.ErrName, codes.InvalidArgument, refusal.Malformed, ""},
	{store.ErrConflict, codes.Aborted, refusal.HeadMoved, "try again"},
	{store.ErrClosed, codes.Unavailable, refusal.Stopping, "try again in a moment"},
	{store.ErrNoSpace, codes.ResourceExhausted, refusal.DiskFull, "make room on the coordinator's disk, then do it again: nothing that was acknowledged is lost"},
	{store.ErrFailed, codes.Unavailable, refusal.StoreFailed, "check the coordinator's disk; it goes on by itself once the disk is well"},
	{store.ErrCorrupt, codes.DataLoss, refusal.StoreDamaged, "restore a backup of the coordinator, or start it with an empty state directory: hosts and publishers refill it"},
	{audit.ErrTampered, codes.DataLoss, refusal.StoreDamaged, "restore a backup of the coordinator, and find out who wrote to its store"},
}

// statusOf turns an error into a status with a reason; one that is a status
// already passes.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if ref := (*release.Refusal)(nil); errors.As(err, &ref) {
		r := release.ReasonOf(err)
		code := codes.FailedPrecondition
		if errors.Is(err, release.ErrMalformed) || errors.Is(err, release.ErrTooLarge) {
			code = codes.InvalidArgument
		}
		return refusal.New(code, r)
	}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return refuse(a.code, a.reason, err.Error(), a.hint)
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the call took too long")
	}
	return refuse(codes.Internal, fleet.ReasonInternal, err.Error(), "look at the coordinator's log")
}
