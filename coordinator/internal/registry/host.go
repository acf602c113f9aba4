package registry

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Machine is an entry of the inventory.
type Machine struct {
	Name     fleet.MachineName `json:"name"`
	Class    fleet.Class       `json:"class"`
	Tags     []string          `json:"tags,omitempty"`
	Disabled bool              `json:"disabled,omitempty"`
}

// equal compares two entries.
func (m Machine) equal(o Machine) bool {
	return m.Name == o.Name && m.Class == o.Class && m.Disabled == o.Disabled && slices.Equal(m.Tags, o.Tags)
}

// Host is what is known of one machine. Snapshots share slices: never change
// them.
type Host struct {
	Name fleet.MachineName
	// Machine is from the inventory; nil where the inventory does not list it.
	Machine  *Machine
	Identity Identity
	// Banned is why the machine is banned; empty where it is not.
	Banned   string
	Hello    Hello
	Observed Observed
	// Connected says whether a stream is open.
	Connected bool
	// LastSeen is the newest sign of life; zero for none.
	LastSeen time.Time
}

// Hello is what an agent says when it opens a stream.
type Hello struct {
	Version      string   `json:"version,omitempty"`
	Instance     string   `json:"instance,omitempty"`
	Boot         string   `json:"boot,omitempty"`
	Run          string   `json:"run,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
}

// life names what is over for good once another one was there: the run of the
// agent's program, or the boot where an agent does not name its run.
func (h Hello) life() string {
	if h.Run != "" {
		return h.Run
	}
	return h.Boot
}

// Identity is the registered host identity of a machine; the zero Identity is
// none.
type Identity struct {
	// Fingerprint of the key: lower-case hex SHA-256 of its
	// SubjectPublicKeyInfo.
	Fingerprint string `json:"fingerprint"`
	// Since is the NotBefore of the certificate by which the key came to be
	// registered: renewals don't make a key younger.
	Since     time.Time `json:"since,omitzero"`
	NotBefore time.Time `json:"not_before"`
	Expires   time.Time `json:"expires"`
	// CA is the key id, in lower-case hex, of the issuer of the youngest certificate
	// that the host showed, and Shown that certificate's NotBefore. One that was issued
	// may never have come to it. Empty where it showed none since this is kept.
	CA       string    `json:"ca,omitempty"`
	Shown    time.Time `json:"shown,omitzero"`
	Enrolled time.Time `json:"enrolled,omitzero"`
	// Lost are the fingerprints of keys that were replaced, the latest last, at
	// most maxLost. None of them comes back but by an enrolment.
	Lost []string `json:"lost,omitempty"`
	// Keys and MAC are the host's own public keys as it sent them, and the
	// proof that the fleet's repository checks; TokenHash names the join string.
	Keys      []byte `json:"keys,omitempty"`
	MAC       []byte `json:"mac,omitempty"`
	TokenHash []byte `json:"token_hash,omitempty"`
}

// maxLost bounds the replaced keys that are remembered of a machine.
const maxLost = 16

// Known says whether a key is registered.
func (i Identity) Known() bool { return i.Fingerprint != "" }

// yields says whether the registered key gives way, without an enrolment, to
// that of a certificate of the fleet's CA: because none is registered, or
// because it came to be registered by an older one and never replaced it.
func (i Identity) yields(to Identity) bool {
	return !i.Known() || to.NotBefore.After(i.Since) && !slices.Contains(i.Lost, to.Fingerprint)
}

// replacedBy returns next with what is to be remembered of i.
func (i Identity) replacedBy(next Identity) Identity {
	next.Since = next.NotBefore
	lost := slices.DeleteFunc(slices.Clone(i.Lost), func(f string) bool { return f == next.Fingerprint })
	if i.Known() && i.Fingerprint != next.Fingerprint {
		lost = append(lost, i.Fingerprint)
	}
	next.Lost = lost[max(0, len(lost)-maxLost):]
	return next
}

// shows says whether a certificate over the same key tells which CA the host has one
// of, and that is not known yet.
func (i Identity) shows(by Identity) bool { return by.CA != i.CA && !by.Shown.Before(i.Shown) }

// IdentityOf describes a certificate that its host shows. Since when its key is
// registered is the register's to say.
func IdentityOf(leaf *x509.Certificate) Identity {
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return Identity{
		Fingerprint: hex.EncodeToString(sum[:]), NotBefore: leaf.NotBefore, Expires: leaf.NotAfter,
		CA: hex.EncodeToString(leaf.AuthorityKeyId), Shown: leaf.NotBefore,
	}
}

// ban is a ban at rest. A lifted one is kept, so that a ban in the kit does not
// come back with a restart.
type ban struct {
	Reason string    `json:"reason,omitempty"`
	Actor  string    `json:"actor"`
	Time   time.Time `json:"time"`
	Lifted bool      `json:"lifted,omitempty"`
}
