package release

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Tally says how many signatures of a role a document has.
type Tally struct {
	// Signed are the ids of the keys whose signatures are there and good.
	Signed []string
	// Want is the role's threshold.
	Want int
}

// Met says whether the threshold is reached.
func (t Tally) Met() bool { return t.Want > 0 && len(t.Signed) >= t.Want }

// tally counts the good signatures of allowed keys. Unlike verify it does not
// want any; one that does not fit, of a key of the role, is refused all the
// same.
func (o *opened) tally(allowed map[string]publicKey, threshold int) (Tally, error) {
	t := Tally{Want: threshold}
	seen := map[string]bool{}
	for _, s := range o.sigs {
		if seen[s.KeyID] {
			return t, fmt.Errorf("%w: two signatures under key id %.16s", ErrDuplicateKey, s.KeyID)
		}
		seen[s.KeyID] = true
		err := (&opened{msg: o.msg, sigs: []dsse.Signature{s}}).verify(allowed, 1)
		switch {
		case err == nil:
			t.Signed = append(t.Signed, s.KeyID)
		case !errors.Is(err, ErrUnknownKey):
			return t, err
		}
	}
	return t, nil
}

// Draft is a root that may follow, and need not be signed by enough keys yet.
type Draft struct {
	Root   Root
	Digest fleet.Digest
	// By says how many root keys of the root before it signed, Own how many of
	// its own.
	By, Own Tally
}

// Complete says whether Next takes it.
func (d *Draft) Complete() bool { return d.By.Met() && d.Own.Met() }

// OpenDraft makes the checks of Next, but for the number of signatures.
func (t *Trust) OpenDraft(envelope []byte) (*Draft, error) {
	d, err := t.openDraft(envelope)
	if err != nil {
		return nil, fmt.Errorf("opening the draft of a trust root: %w", err)
	}
	return d, nil
}

func (t *Trust) openDraft(envelope []byte) (*Draft, error) {
	o, err := openEnvelope(envelope, fleet.TypeRoot)
	if err != nil {
		return nil, err
	}
	root, err := decode[Root](o.payload, fleet.TypeRoot)
	if err != nil {
		return nil, err
	}
	keys, err := root.check()
	if err != nil {
		return nil, err
	}
	if err := t.follows(&root); err != nil {
		return nil, err
	}
	d := &Draft{Root: root, Digest: fleet.DigestOf(o.payload)}
	if d.By, err = o.tally(t.keys[RoleRoot], t.root.Roles[RoleRoot].Threshold); err != nil {
		return nil, err
	}
	if d.Own, err = o.tally(keys[RoleRoot], root.Roles[RoleRoot].Threshold); err != nil {
		return nil, err
	}
	return d, nil
}

// Signatures counts the good signatures that a role's keys made under a
// document of the given type.
func (t *Trust) Signatures(docType string, role RoleName, envelope []byte) (Tally, error) {
	o, err := openEnvelope(envelope, docType)
	if err != nil {
		return Tally{}, fmt.Errorf("opening %s: %w", docType, err)
	}
	n, err := o.tally(t.keys[role], t.root.Roles[role].Threshold)
	if err != nil {
		return Tally{}, fmt.Errorf("opening %s: %w", docType, err)
	}
	return n, nil
}

// AddSignatures signs a document that is in an envelope already and returns the
// envelope with these signatures added. A key that signed before signs no
// second time. What the document says is the caller's to judge beforehand.
func AddSignatures(docType string, envelope []byte, signers ...Signer) ([]byte, error) {
	o, err := openEnvelope(envelope, docType)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", docType, err)
	}
	env := dsse.Envelope{
		PayloadType: payloadType(docType), Payload: base64.StdEncoding.EncodeToString(o.payload), Signatures: o.sigs,
	}
	signers = slices.DeleteFunc(slices.Clone(signers), func(s Signer) bool {
		return slices.ContainsFunc(o.sigs, func(d dsse.Signature) bool { return d.KeyID == s.KeyID() })
	})
	if n := len(o.sigs) + len(signers); n > maxSignatures {
		return nil, fmt.Errorf("signing %s: %w: %d signatures, at most %d", docType, ErrTooLarge, n, maxSignatures)
	}
	if err := sign(&env, o.payload, signers); err != nil {
		return nil, fmt.Errorf("signing %s: %w", docType, err)
	}
	out, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", docType, err)
	}
	return out, nil
}
