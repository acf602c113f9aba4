// Package refusal carries a fleet.Reason in a gRPC status, so that agent and
// fleetctl can show why the coordinator refused a call and what to do next,
// and can tell refusals apart without reading text.
package refusal

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Codes of refusals by the coordinator, besides those of pkg/release and
// pkg/fleet.
const (
	// NoCertificate is a call that needs a certificate and came without one.
	NoCertificate fleet.ReasonCode = "no-certificate"
	// NotAllowed is a call by an identity that may not make it.
	NotAllowed fleet.ReasonCode = "not-allowed"
	// IdentityExpired is a call other than Renew with an expired certificate.
	IdentityExpired fleet.ReasonCode = "identity-expired"
	// IdentitySuperseded is a call with a certificate over a key that a later
	// enrolment replaced.
	IdentitySuperseded fleet.ReasonCode = "identity-superseded"
	// TokenUnknown is an enrolment with a token that was never registered or
	// has been forgotten.
	TokenUnknown fleet.ReasonCode = "token-unknown"
	// TokenExpired is an enrolment with a token that ran out.
	TokenExpired fleet.ReasonCode = "token-expired"
	// TokenUsed is an enrolment with a token that another key used.
	TokenUsed fleet.ReasonCode = "token-used"
	// TokenMachine is an enrolment with another machine's token.
	TokenMachine fleet.ReasonCode = "token-wrong-machine"
	// TooMany is a call refused to bound load: try later.
	TooMany fleet.ReasonCode = "too-many-requests"
	// UnknownMachine names a machine that the inventory lacks.
	UnknownMachine fleet.ReasonCode = "unknown-machine"
	// Malformed is a request that makes no sense.
	Malformed fleet.ReasonCode = "malformed-request"
	// HeadMoved is a commit over a head that is no longer there.
	HeadMoved fleet.ReasonCode = "head-moved"
	// Incomplete is a commit of a release that misses generations or blobs.
	Incomplete fleet.ReasonCode = "release-incomplete"
	// NoRollbackTarget is a rollback for which no generation qualifies.
	NoRollbackTarget fleet.ReasonCode = "no-rollback-target"
	// HostKeysWanted is a report from a host whose report key is not known:
	// the host attaches its host keys to the next.
	HostKeysWanted fleet.ReasonCode = "host-keys-wanted"
	// HostKeysChanged is a report that attaches another report key than the
	// one registered.
	HostKeysChanged fleet.ReasonCode = "host-keys-changed"
	// Stalled is an upload that was too slow for too long.
	Stalled fleet.ReasonCode = "transfer-stalled"
	// NotFound names something that isn't there.
	NotFound fleet.ReasonCode = "not-found"
	// DiskFull is a change that the coordinator's disk had no room for: nothing
	// of it was made, and the same works when there is room.
	DiskFull fleet.ReasonCode = "disk-full"
	// StoreFailed is a call while the coordinator can't tell what is on its disk.
	StoreFailed fleet.ReasonCode = "store-failed"
	// StoreDamaged is a call that met something in the coordinator's store that
	// is not what was written.
	StoreDamaged fleet.ReasonCode = "store-damaged"
	// Stopping is a stream ended because the coordinator stops.
	Stopping fleet.ReasonCode = "coordinator-stopping"
	// Replaced is a stream ended because the same instance opened a newer one.
	Replaced fleet.ReasonCode = "stream-replaced"
)

// New makes a status error with the reason in its details.
func New(code codes.Code, r fleet.Reason) error {
	s := status.New(code, r.Message)
	d, err := s.WithDetails(&fleetv1.Reason{Code: string(r.Code), Message: r.Message, Hint: r.Hint})
	if err != nil {
		// Only for codes.OK or a message that can't be marshalled.
		return s.Err()
	}
	return d.Err()
}

// Of returns the reason that a status error carries. ok is false where err is
// no status error made by New, such as one of the transport.
func Of(err error) (r fleet.Reason, ok bool) {
	if err == nil {
		return fleet.Reason{}, false
	}
	var withStatus interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &withStatus) {
		return fleet.Reason{}, false
	}
	for _, d := range withStatus.GRPCStatus().Details() {
		if m, is := d.(*fleetv1.Reason); is {
			return fleet.Reason{
				Code:    fleet.ReasonCode(clip(m.GetCode(), 64)),
				Message: clip(m.GetMessage(), fleet.MaxReasonBytes),
				Hint:    clip(m.GetHint(), fleet.MaxReasonBytes),
			}, true
		}
	}
	return fleet.Reason{}, false
}

// clip bounds what the other side may make us show.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return Plain(s)
}
