package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// SSHAct is what somebody did that opens hosts.
type SSHAct string

// The acts.
const (
	// SSHCertified is a certificate for a person, SSHRevoked its end.
	SSHCertified SSHAct = "certified"
	SSHRevoked   SSHAct = "revoked"
	// SSHRead is a look at a machine's recovery password.
	SSHRead SSHAct = "read"
)

// SSHRecord is one act.
type SSHRecord struct {
	At  time.Time `json:"at"`
	By  string    `json:"by"`
	Act SSHAct    `json:"act"`
	// Serial of a certificate.
	Serial uint64 `json:"serial,omitempty,string"`
	// Key is the .pub line that was certified, Fingerprint its short form.
	Key         string `json:"key,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	// CA is the .pub line of the key that signed.
	CA         string    `json:"ca,omitempty"`
	Principals []string  `json:"principals,omitempty"`
	Until      time.Time `json:"until,omitzero"`
	// Machine and Value are what was read.
	Machine fleet.MachineName `json:"machine,omitempty"`
	Value   string            `json:"value,omitempty"`
	Why     string            `json:"why,omitempty"`
}

const maxSSHLog = 64 << 20

// SSHLogFile is where acts are, relative to the repository; SSHRevocations what sshd
// reads of them.
const (
	SSHLogFile     = "ssh/log.jsonl"
	SSHRevocations = "ssh/revoked.krl"
)

// SSHLog reads all acts, the oldest first.
func (r *Repository) SSHLog() (all []SSHRecord, err error) {
	data, err := r.Read(maxSSHLog, "ssh", "log.jsonl")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	for n, line := range bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n")) {
		var rec SSHRecord
		if err := strictjson.UnmarshalKnown(line, len(line), &rec); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w: %w", r.Path("ssh", "log.jsonl"), n+1, ErrCorrupt, err)
		}
		all = append(all, rec)
	}
	return all, nil
}

// AppendSSHLog records acts. The caller holds the lock.
func (r *Repository) AppendSSHLog(acts ...SSHRecord) error {
	before, err := r.Read(maxSSHLog, "ssh", "log.jsonl")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(before) > 0 && before[len(before)-1] != '\n' {
		before = append(before, '\n')
	}
	for _, rec := range acts {
		line, err := json.Marshal(rec)
		if err != nil {
			return fmt.Errorf("recording what was done: %w", err)
		}
		before = append(append(before, line...), '\n')
	}
	return r.Write(before, "ssh", "log.jsonl")
}
