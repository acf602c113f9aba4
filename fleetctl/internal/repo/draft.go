package repo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// Sentinels about drafts.
var (
	// ErrNoDraft is where nobody drafted a next trust root.
	ErrNoDraft = errors.New("there is no draft of a trust root")
	// ErrDraftConflict is a draft that two people changed at once.
	ErrDraftConflict = errors.New("two people changed the draft of the trust root")
	// ErrDraftStale is a draft that follows a trust root which is not the newest.
	ErrDraftStale = errors.New("the draft is of another trust root than the newest one")
)

// Draft is the next trust root while it collects signatures.
type Draft struct {
	// Base is the digest of the trust root that it follows.
	Base fleet.Digest `json:"base"`
	// Changes say what was changed, by whom and when, for people.
	Changes []DraftChange `json:"changes"`
	// Envelope is the root with the signatures that it has, a DSSE envelope.
	Envelope []byte `json:"envelope"`
}

// DraftChange is one change of a draft.
type DraftChange struct {
	Time     time.Time `json:"time"`
	Operator string    `json:"operator"`
	Change   string    `json:"change"`
}

const (
	maxDraft   = 2 << 20
	draftFile  = "draft.json"
	maxChanges = 1000
)

// Draft reads the draft that follows t. Errors: ErrNoDraft, ErrDraftConflict,
// ErrDraftStale, ErrCorrupt, refusals of pkg/release.
func (r *Repository) Draft(t *release.Trust) (*Draft, *release.Draft, error) {
	data, err := r.Read(maxDraft, "trust", draftFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, ui.WithHint(ErrNoDraft, `begin one with "fleetctl trust rotate", "trust add-key" or "trust renew"`)
	}
	if err != nil {
		return nil, nil, err
	}
	d, opened, err := ParseDraft(t, data)
	if err != nil {
		hint := ui.HintOf(err)
		return nil, nil, ui.WithHint(fmt.Errorf("reading %s: %w", r.Path("trust", draftFile), err), hint)
	}
	return d, opened, nil
}

// ParseDraft reads a draft that follows t.
func ParseDraft(t *release.Trust, data []byte) (*Draft, *release.Draft, error) {
	if bytes.Contains(data, []byte("<<<<<<<")) {
		return nil, nil, ui.WithHint(ErrDraftConflict,
			`keep one side ("git checkout --theirs trust/draft.json", say), make the other's changes again, and sign`)
	}
	d := &Draft{}
	if err := strictjson.Unmarshal(data, maxDraft, d); err != nil {
		return nil, nil, ui.WithHint(fmt.Errorf("%w: %w", ErrCorrupt, err), `restore it from version control, or "fleetctl trust discard"`)
	}
	if d.Base != t.Digest() {
		return nil, nil, ui.WithHint(fmt.Errorf("%w: version %d is there by now", ErrDraftStale, t.Root().Version),
			`look at it with "fleetctl trust show"; then "fleetctl trust discard", and make your changes again`)
	}
	if len(d.Changes) > maxChanges {
		return nil, nil, fmt.Errorf("%w: %d changes", ErrCorrupt, len(d.Changes))
	}
	opened, err := t.OpenDraft(d.Envelope)
	if err != nil {
		return nil, nil, ui.WithHint(err, `restore it from version control, or "fleetctl trust discard"`)
	}
	return d, opened, nil
}

// WriteDraft records a draft.
func (r *Repository) WriteDraft(d *Draft) error { return r.writeJSON(d, "trust", draftFile) }

// RemoveDraft takes the draft away. None is no error.
func (r *Repository) RemoveDraft() error {
	if err := os.Remove(r.Path("trust", draftFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the draft: %w", err)
	}
	return nil
}

// Enact makes a draft that has enough signatures the newest trust root. The
// root is written before the draft goes: after a crash between the two, the
// draft is one that Settle takes away.
func (r *Repository) Enact(t *release.Trust, d *Draft, now time.Time) (*release.Trust, error) {
	next, err := t.Next(d.Envelope)
	if err != nil {
		return nil, err
	}
	if err := next.CheckFresh(now); err != nil {
		return nil, ui.WithHint(err, `"fleetctl trust renew" gives the draft a new expiry`)
	}
	if err := r.WriteRoot(next.Root().Version, d.Envelope); err != nil {
		return nil, err
	}
	return next, r.RemoveDraft()
}

// Settle takes away a draft that became the newest trust root when an Enact was
// interrupted.
func (r *Repository) Settle(t *release.Trust) error {
	data, err := r.Read(maxDraft, "trust", draftFile)
	if err != nil {
		return nil //nolint:nilerr // No draft, or one that Draft explains.
	}
	d := &Draft{}
	if err := strictjson.Unmarshal(data, maxDraft, d); err != nil {
		return nil //nolint:nilerr // Draft explains it.
	}
	if digest, err := PayloadDigest(d.Envelope); err == nil && digest == t.Digest() {
		return r.RemoveDraft()
	}
	return nil
}
