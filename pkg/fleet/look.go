package fleet

import (
	"encoding/hex"
	"strings"
	"time"
)

// LogHead names a record of the coordinator's event log: its number, from 1, and
// the SHA-256 of its bytes in lower-case hex, which the next record names.
type LogHead struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// IsZero says that there is none.
func (h LogHead) IsZero() bool { return h == LogHead{} }

// Validate says what keeps h from naming a record.
func (h LogHead) Validate() error {
	if b, err := hex.DecodeString(h.Hash); err != nil || len(b) != 32 || h.Seq == 0 || strings.ToLower(h.Hash) != h.Hash {
		return invalid("%d:%s is no head of an event log", h.Seq, clip(h.Hash))
	}
	return nil
}

// MaxLookBytes bounds the envelope of a Look.
const MaxLookBytes = 4 << 10

// Look is an operator's word that the event log had that head when they looked:
// the payload of a document signed with the key of their certificate. Whoever
// writes the log anew, who can, can't make it have that record
// (B. Schneier, J. Kelsey: Secure Audit Logs to Support Computer Forensics, 1999).
type Look struct {
	Type     string       `json:"type"` // TypeLook
	Fleet    FleetID      `json:"fleet"`
	Operator OperatorName `json:"operator"`
	Head     LogHead      `json:"head"`
	Time     time.Time    `json:"time"`
}

// Validate checks everything about a look that needs no context.
func (l *Look) Validate() error {
	if l.Type != TypeLook {
		return invalid("type is %q, want %q", clip(l.Type), TypeLook)
	}
	if _, err := ParseOperatorName(string(l.Operator)); err != nil {
		return err
	}
	return l.Head.Validate()
}

// MaxKeptHeads is how many heads a host keeps, and says in its reports.
const MaxKeptHeads = 8

// KeptHead is a head that the coordinator told a host, and when by the host's
// clock.
type KeptHead struct {
	LogHead
	Time time.Time `json:"time"`
}
