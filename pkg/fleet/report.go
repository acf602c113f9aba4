package fleet

import "time"

// Report is what a host says of itself: the payload of a document signed with
// the machine's report key.
type Report struct {
	Type         string          `json:"type"` // TypeReport
	Fleet        FleetID         `json:"fleet"`
	Machine      MachineName     `json:"machine"`
	InstanceID   string          `json:"instance_id"`
	BootID       string          `json:"boot_id"`
	AgentVersion string          `json:"agent_version"`
	Time         time.Time       `json:"time"`
	Mode         Mode            `json:"mode"`
	Paused       string          `json:"paused,omitempty"`
	Profiles     []ProfileStatus `json:"profiles,omitempty"`
	// Acked is the highest transition that was acknowledged to this host: a
	// coordinator that knows of fewer has an older store than it once had.
	Acked uint64 `json:"acked,omitempty"`
	// LogHeads are what the coordinator told this host of its event log, days
	// apart, oldest first, at most MaxKeptHeads.
	LogHeads []KeptHead `json:"log_heads,omitempty"`
	// Transitions not acknowledged yet, by rising Seq, at most MaxTransitions.
	Transitions []Transition `json:"transitions,omitempty"`
}

// Limits on reports.
const (
	MaxReportBytes   = 256 << 10
	MaxTransitions   = 256
	MaxReasonBytes   = 2048
	MaxProfiles      = 64
	MaxRefusedListed = 32
)

// ProfileStatus is where a profile is and why.
type ProfileStatus struct {
	Profile   ProfileName `json:"profile"`
	State     State       `json:"state"`
	Reason    Reason      `json:"reason"`
	Current   Ref         `json:"current"`
	Confirmed Ref         `json:"confirmed"`
	LastGood  Ref         `json:"last_good"`
	// Highest generation that this host ever accepted.
	Highest Ref `json:"highest"`
	// Refused are generations that failed here or were refused.
	Refused []Ref `json:"refused,omitempty"`
}

// Transition is one change of state of a profile.
type Transition struct {
	// Seq counts the transitions of this agent's journal, from 1.
	Seq     uint64      `json:"seq"`
	Time    time.Time   `json:"time"`
	Profile ProfileName `json:"profile"`
	State   State       `json:"state"`
	Ref     Ref         `json:"ref"`
	Reason  Reason      `json:"reason"`
}
