package release

import (
	"errors"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Refusal is the named reason for which a document is not accepted. The
// package's sentinels are of this type; compare with errors.Is.
type Refusal struct {
	// Code is stable: it appears in status, events and logs.
	Code fleet.ReasonCode
	text string
	hint string
}

// Error says what is the case.
func (r *Refusal) Error() string { return r.text }

// Hint says what to do next.
func (r *Refusal) Hint() string { return r.hint }

// ErrDeadly refuses a document of which the agent that reads it died each time.
var ErrDeadly = refusal(string(fleet.ReasonQuarantined), "the agent of this host died each time that it worked on it",
	"look at the agent's log and report that; publish a mended release, or try this one again with fleet-agent retry")

func refusal(code, text, hint string) *Refusal {
	return &Refusal{Code: fleet.ReasonCode(code), text: text, hint: hint}
}

// The refusals. None is worth a retry with the same document.
var (
	ErrMalformed       = refusal("malformed", "malformed document", "publish again with a fleetctl of the agent's version or older")
	ErrTooLarge        = refusal("too-large", "document too large", "split it; the limits are in docs/architecture.md")
	ErrDuplicateKey    = refusal("duplicate-key", "a key is listed twice", "sign again with different keys")
	ErrUnknownKey      = refusal("unknown-key", "signed by no key that the trust root names for this role", "sign with a key of the role, or check that the host has the right trust root")
	ErrThreshold       = refusal("below-threshold", "signed by fewer keys than the trust root asks for", "collect the missing signatures")
	ErrSignature       = refusal("bad-signature", "a signature does not fit the document", "the document was altered after it was signed: publish again, and find out where")
	ErrCritical        = refusal("unknown-critical", "the document depends on a rule that this version does not know", "update the agent first")
	ErrWrongFleet      = refusal("wrong-fleet", "the document is for another fleet", "check which coordinator this host was enrolled with")
	ErrWrongMachine    = refusal("wrong-machine", "the document is for another machine", "the coordinator mixed hosts up, or lies: check its event log")
	ErrWrongProfile    = refusal("wrong-profile", "the document is for another profile", "the coordinator mixed profiles up, or lies: check its event log")
	ErrLowerNumber     = refusal("lower-number", "its number is lower than that of a generation accepted before", "publish again: numbers only go upwards")
	ErrNumberReused    = refusal("number-reused", "a different generation with the same number was accepted before", "two publishers, or a stolen release key: compare releases/ with the event log, then publish again")
	ErrNumberJump      = refusal("number-jump", "its number is too far above the last one", "publish with a number within the cap, or raise the epoch in the trust root")
	ErrWrongEpoch      = refusal("wrong-epoch", "its epoch is not that of the trust root", "publish again with today's trust root")
	ErrExpired         = refusal("expired", "the document has expired", "publish again, or renew it with publish --refresh")
	ErrFuture          = refusal("future-dated", "the document was issued in the future", "set the publisher's clock, or this host's, and publish again; where both are right, a stolen key signed it: docs/runbooks.md")
	ErrRootVersion     = refusal("root-version", "the trust root is not the next version", "hand over every version in order")
	ErrRootPin         = refusal("root-pin", "the trust root is not the pinned one", "compare the pin in the join string or configuration with trust/root of the fleet's repository")
	ErrSecretsMismatch = refusal("secrets-mismatch", "the secrets manifest is not the one that the generation names", "publish again; if it repeats, the coordinator lies")
	ErrOlderStatement  = refusal("older-statement", "an older freshness statement than the newest one seen", "the coordinator lags behind, or hides what is new: check its event log")
	ErrRevoked         = refusal("revoked", "it has values that were revoked since", "publish the older source as a new generation instead, with new values")
	ErrNotInRevertSet  = refusal("not-in-revert-set", "the generation to go back to is not in the newest one's revert_to", "publish the older source as a new generation instead")
)

// ReasonOf explains err to people: by its refusal where there is one.
func ReasonOf(err error) fleet.Reason {
	if err == nil {
		return fleet.Reason{}
	}
	r := fleet.Reason{Code: fleet.ReasonInternal, Message: err.Error()}
	if ref := (*Refusal)(nil); errors.As(err, &ref) {
		r.Code, r.Hint = ref.Code, ref.hint
	}
	if len(r.Message) > fleet.MaxReasonBytes {
		r.Message = r.Message[:fleet.MaxReasonBytes]
	}
	return r
}
