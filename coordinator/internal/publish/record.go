package publish

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// Keys in the store.
const (
	headKey         = "head"
	releasePrefix   = "release/"   // RELEASE
	stagedPrefix    = "staged/"    // RELEASE/MACHINE/PROFILE; visible once release/RELEASE is there
	adoptedPrefix   = "adopted/"   // MACHINE/DIGEST/PROFILE
	revertPrefix    = "revert/"    // MACHINE/PROFILE
	looseningPrefix = "loosening/" // MACHINE/DIGEST
	freshnessPrefix = "freshness/" // MACHINE
	stagingPrefix   = "staging/"   // RELEASE: when staging began
	rootPrefix      = "root/"      // VERSION, with leading zeros: what the kit did not have
	proposalPrefix  = "proposal/"  // RELEASE
)

// Release is a committed release.
type Release struct {
	ID        fleet.ReleaseID `json:"id"`
	Committed time.Time       `json:"committed"`
	Actor     string          `json:"actor"`
	Revision  string          `json:"revision,omitempty"`
	// Machines and Count say how many machines and generations it covers.
	Machines int `json:"machines"`
	Count    int `json:"count"`
	// Seq orders releases: one more than that of the head before.
	Seq uint64 `json:"seq"`
}

// Revert sends one profile of a machine back, as long as Newest is its newest
// generation.
type Revert struct {
	Machine fleet.MachineName `json:"machine"`
	Profile fleet.ProfileName `json:"profile"`
	Newest  fleet.Digest      `json:"newest"`
	Target  fleet.Ref         `json:"target"`
	Actor   string            `json:"actor"`
	Time    time.Time         `json:"time"`
}

// errRecord is a stored record that can't be read.
var errRecord = errors.New("malformed record in the store")

// maxEnvelope bounds an envelope: base64 and JSON around the largest document.
const maxEnvelope = fleet.MaxDocumentBytes*4/3 + 16<<10

// encodePair keeps both envelopes as they were signed: the length of the first
// in four bytes, then both.
func encodePair(generation, secrets []byte) []byte {
	b := make([]byte, 0, 4+len(generation)+len(secrets))
	b = binary.BigEndian.AppendUint32(b, uint32(len(generation))) //nolint:gosec // At most maxEnvelope.
	b = append(b, generation...)
	return append(b, secrets...)
}

// decodePair reads what encodePair writes; secrets is nil where there are none.
func decodePair(b []byte) (generation, secrets []byte, err error) {
	if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) { //nolint:gosec // Not negative here.
		return nil, nil, fmt.Errorf("%w: a generation is cut", errRecord)
	}
	n := int(binary.BigEndian.Uint32(b))
	generation, secrets = b[4:4+n], b[4+n:]
	if len(secrets) == 0 {
		secrets = nil
	}
	return generation, secrets, nil
}

// opened is a verified generation with its secrets manifest, nil for none.
type opened struct {
	generation *release.Signed[fleet.Generation]
	secrets    *release.Signed[fleet.SecretsManifest]
}

// open verifies the signatures of both documents.
func open(t *release.Trust, generation, secrets []byte) (opened, error) {
	if len(generation) > maxEnvelope || len(secrets) > maxEnvelope {
		return opened{}, release.ErrTooLarge
	}
	g, err := t.OpenGeneration(generation)
	if err != nil {
		return opened{}, err
	}
	o := opened{generation: g}
	if len(secrets) > 0 {
		if o.secrets, err = t.OpenSecrets(secrets); err != nil {
			return opened{}, err
		}
	}
	return o, nil
}

// gen is what is remembered of an opened generation.
func (o opened) gen(key string) *Gen {
	d := o.generation.Doc
	g := &Gen{
		Machine: d.Machine, Profile: d.Profile, RevertTo: d.RevertTo, Expires: d.Expires, key: key,
		Ref:   fleet.Ref{Number: d.Number, Digest: o.generation.Digest, Release: d.Release},
		Blobs: append(d.Source.Blobs(), d.PluginBlobs()...),
	}
	if o.secrets != nil {
		for _, s := range o.secrets.Doc.Entries {
			g.Blobs = append(g.Blobs, fleet.BlobRef{Digest: s.Digest, Size: s.Size})
		}
	}
	return g
}
