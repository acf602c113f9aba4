package pki

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"filippo.io/age"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// MaxHostKeysBytes bounds the encoding of HostKeys.
const MaxHostKeysBytes = 4 << 10

// HostKeys are a host's own public keys, besides that of its identity.
type HostKeys struct {
	Machine fleet.MachineName `json:"machine"`
	// Report key, ed25519, standard base64 of 32 bytes.
	Report string `json:"report"`
	// Age recipient that secrets are encrypted to; empty where the inventory
	// names one.
	Age string `json:"age,omitempty"`
}

// NewHostKeys describes a host's keys.
func NewHostKeys(m fleet.MachineName, report ed25519.PublicKey, ageRecipient string) HostKeys {
	return HostKeys{Machine: m, Report: base64.StdEncoding.EncodeToString(report), Age: ageRecipient}
}

// Marshal is the encoding that the join string's MAC covers.
func (k HostKeys) Marshal() ([]byte, error) {
	b, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("encoding host keys: %w", err)
	}
	return b, nil
}

// ReportKey is the report key.
func (k HostKeys) ReportKey() (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(k.Report)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("host keys: the report key is no ed25519 key")
	}
	return b, nil
}

// ParseHostKeys reads and checks what Marshal writes.
func ParseHostKeys(b []byte) (HostKeys, error) {
	var k HostKeys
	if err := strictjson.Unmarshal(b, MaxHostKeysBytes, &k); err != nil {
		return k, fmt.Errorf("reading host keys: %w", err)
	}
	if _, err := fleet.ParseMachineName(string(k.Machine)); err != nil {
		return k, fmt.Errorf("reading host keys: %w", err)
	}
	if _, err := k.ReportKey(); err != nil {
		return k, err
	}
	if k.Age != "" {
		if _, err := age.ParseX25519Recipient(k.Age); err != nil {
			return k, fmt.Errorf("reading host keys: age recipient: %w", err)
		}
	}
	return k, nil
}
