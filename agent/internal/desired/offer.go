package desired

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Offer is what a coordinator desires of a profile.
type Offer struct {
	Profile fleet.ProfileName
	Newest  Document
	// Revert is nil unless the coordinator sends the host back.
	Revert *Document
}

// Take judges an offer, and keeps it where it is admissible for h at now. A
// refused one changes nothing but what Desired tells as refusal, and is
// returned as one of pkg/release's errors; so is one that can't be kept, as
// another error, until it is offered again.
func (s *Store) Take(h release.Host, o Offer, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest, err := s.open(o.Newest)
	if err == nil {
		err = s.take(h, o, newest, now)
	}
	if err != nil {
		if s.real(h, newest) {
			s.refused[h.Profile] = reasonOf(err)
		}
		return err
	}
	delete(s.refused, h.Profile)
	return nil
}

// NumberOf is the number of an offered document whose signatures are good; of
// another one it is zero.
func (s *Store) NumberOf(d Document) fleet.Number {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.open(d)
	if err != nil {
		return fleet.Number{}
	}
	return o.Generation.Doc.Number
}

// LocalHint is what to do about a document that could not be kept or read.
const LocalHint = "look at this host's disk and its permissions; the agent tries again by itself"

// reasonOf is release.ReasonOf, with a hint for what is no refusal.
func reasonOf(err error) fleet.Reason {
	r := release.ReasonOf(err)
	if r.Code == fleet.ReasonInternal && r.Hint == "" {
		r.Hint = LocalHint
	}
	return r
}

// real says whether h's profile is one of this host: the system's, one that
// something is desired of, or one that a signed generation names. What an
// unsigned offer calls a profile is not remembered: it could be any number.
func (s *Store) real(h release.Host, newest *Opened) bool {
	_, known := s.pointers[h.Profile]
	return known || h.Profile == fleet.System ||
		newest != nil && newest.Generation.Doc.Machine == h.Machine && newest.Generation.Doc.Profile == h.Profile
}

// Judge opens a document and admits it for the host that of returns for its
// profile, as Take would, and keeps nothing.
func (s *Store) Judge(d Document, of func(fleet.ProfileName) release.Host, now time.Time) (*Opened, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, err := s.open(d)
	if err != nil {
		return nil, err
	}
	return o, s.trust.Admit(of(o.Generation.Doc.Profile), o.Generation, o.Secrets, now) //nolint:wrapcheck // It says what was admitted.
}

func (s *Store) take(h release.Host, o Offer, newest *Opened, now time.Time) error {
	if err := s.trust.Admit(h, newest.Generation, newest.Secrets, now); err != nil {
		return err //nolint:wrapcheck // It says what was admitted.
	}
	if err := s.keep(o.Newest, newest); err != nil {
		return err
	}
	p := Pointer{Newest: newest.Generation.Digest}
	if o.Revert == nil {
		return s.setPointer(o.Profile, p)
	}
	target, err := s.open(*o.Revert)
	if err == nil {
		err = s.trust.AdmitRevert(h, newest.Generation, newest.Secrets, target.Generation, target.Secrets, now)
	}
	if err == nil {
		err = s.keep(*o.Revert, target)
	}
	if err == nil {
		p.Revert = target.Generation.Digest
	}
	// The newest counts even where the way back is refused: then the profile
	// stays on the way that it is on.
	if perr := s.setPointer(o.Profile, p); perr != nil {
		return perr
	}
	return err
}

// open verifies both parts of a document; s.mu is held.
func (s *Store) open(d Document) (*Opened, error) {
	trust, err := s.judge()
	if err != nil {
		return nil, fmt.Errorf("opening generation: %w", err)
	}
	// By its bytes: nothing of it is known yet.
	sum := fleet.DigestOf(append(bytes.Clone(d.Generation), d.Secrets...))
	end, err := s.attempts.Enter("open " + string(sum))
	if err != nil {
		return nil, fmt.Errorf("opening generation: %w", release.ErrDeadly)
	}
	defer end()
	g, err := trust.OpenGeneration(d.Generation)
	if err != nil {
		return nil, err //nolint:wrapcheck // It says what was opened.
	}
	o := &Opened{Generation: g}
	if len(d.Secrets) > 0 {
		if o.Secrets, err = trust.OpenSecrets(d.Secrets); err != nil {
			return nil, err //nolint:wrapcheck // It says what was opened.
		}
	}
	return o, nil
}

// keep makes a document durable under its digest; s.mu is held.
func (s *Store) keep(d Document, o *Opened) error {
	digest := o.Generation.Digest
	if _, ok := s.opened[digest]; ok {
		return nil
	}
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding document: %w", err)
	}
	if err := atomicfile.WriteFile(s.documentPath(digest), b, 0o600); err != nil {
		return fmt.Errorf("keeping document: %w", err)
	}
	s.opened[digest] = o
	return nil
}

func (s *Store) documentPath(d fleet.Digest) string {
	return filepath.Join(s.documentsDir(), d.Hex()+".json")
}

// Document returns a kept document as it was signed.
func (s *Store) Document(d fleet.Digest) (Document, error) {
	var doc Document
	if _, err := fleet.ParseDigest(string(d)); err != nil {
		return doc, fmt.Errorf("reading document: %w", err)
	}
	b, err := atomicfile.ReadAtMost(s.documentPath(d), maxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		return doc, fmt.Errorf("generation %s: %w", d.Short(), ErrNotHere)
	}
	if err != nil {
		return doc, err
	}
	if err := strictjson.UnmarshalKnown(b, maxFileBytes, &doc); err != nil {
		return doc, fmt.Errorf("reading document: %s is damaged: %w", s.documentPath(d), err)
	}
	return doc, nil
}

// Load opens a document that is kept, verifying it by today's trust root.
func (s *Store) Load(d fleet.Digest) (*Opened, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load(d)
}

func (s *Store) load(d fleet.Digest) (*Opened, error) {
	if o, ok := s.opened[d]; ok {
		return o, nil
	}
	doc, err := s.Document(d)
	if err != nil {
		return nil, err
	}
	o, err := s.open(doc)
	if err != nil {
		return nil, fmt.Errorf("reading document %s: %w", s.documentPath(d), err)
	}
	if o.Generation.Digest != d {
		return nil, fmt.Errorf("reading document %s: %w: another one is stored under its name", d.Short(), release.ErrSignature)
	}
	s.opened[d] = o
	return o, nil
}

// Highest is, by profile, the highest generation for machine among all
// documents that are here and good: no honest host is below it. Those that are
// damaged are passed over.
func (s *Store) Highest(machine fleet.MachineName) (map[fleet.ProfileName]*Opened, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.documentsDir())
	if err != nil {
		return nil, fmt.Errorf("reading documents: %w", err)
	}
	highest := map[fleet.ProfileName]*Opened{}
	for _, e := range entries {
		hex, is := strings.CutSuffix(e.Name(), ".json")
		if !is {
			continue
		}
		o, err := s.load(fleet.Digest("sha256:" + hex))
		if err != nil || o.Generation.Doc.Machine != machine {
			continue
		}
		p := o.Generation.Doc.Profile
		if was := highest[p]; was == nil || o.Ref().Number.Compare(was.Ref().Number) > 0 {
			highest[p] = o
		}
	}
	return highest, nil
}

// LoadAccepted opens a document that was accepted before, by its digest alone:
// its keys may have left the trust root since, while its activation is under
// way or it is what the host runs.
func (s *Store) LoadAccepted(d fleet.Digest) (fleet.Generation, error) {
	s.mu.Lock()
	o, ok := s.opened[d]
	s.mu.Unlock()
	if ok { // Most often: reading it once more costs each decision a millisecond.
		return o.Generation.Doc, nil
	}
	doc, err := s.Document(d)
	if err != nil {
		return fleet.Generation{}, err
	}
	return accepted[fleet.Generation](doc.Generation, d)
}

// LoadAcceptedSecrets does the same for the secrets manifest that such a document
// names, and returns it with its digest; nil where it names none.
func (s *Store) LoadAcceptedSecrets(d fleet.Digest) (*fleet.SecretsManifest, fleet.Digest, error) {
	doc, err := s.Document(d)
	if err != nil {
		return nil, "", err
	}
	g, err := accepted[fleet.Generation](doc.Generation, d)
	if err != nil || g.Secrets == nil {
		return nil, "", err
	}
	m, err := accepted[fleet.SecretsManifest](doc.Secrets, g.Secrets.Digest)
	if err == nil {
		err = m.Validate()
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the secrets of document %s: %w", d.Short(), err)
	}
	return &m, g.Secrets.Digest, nil
}

// SecretsOf are the secrets manifests of a profile's documents that are here, by the
// generations' digests: as LoadAcceptedSecrets opens them. Damaged ones are passed over.
func (s *Store) SecretsOf(profile fleet.ProfileName) (map[fleet.Digest]*fleet.SecretsManifest, error) {
	entries, err := os.ReadDir(s.documentsDir())
	if err != nil {
		return nil, fmt.Errorf("reading documents: %w", err)
	}
	manifests := map[fleet.Digest]*fleet.SecretsManifest{}
	for _, e := range entries {
		hex, _ := strings.CutSuffix(e.Name(), ".json")
		d := fleet.Digest("sha256:" + hex)
		if m, _, err := s.LoadAcceptedSecrets(d); err == nil && m != nil && m.Profile == profile {
			manifests[d] = m
		}
	}
	return manifests, nil
}

// accepted is the payload of an envelope, which has the digest d.
func accepted[T any](envelope []byte, d fleet.Digest) (payload T, err error) {
	var env struct {
		Payload []byte `json:"payload"`
	}
	if err := json.Unmarshal(envelope, &env); err != nil {
		return payload, fmt.Errorf("reading document %s: %w", d.Short(), err)
	}
	if fleet.DigestOf(env.Payload) != d {
		return payload, fmt.Errorf("reading document %s: %w", d.Short(), release.ErrSignature)
	}
	if err := strictjson.Unmarshal(env.Payload, fleet.MaxDocumentBytes, &payload); err != nil {
		return payload, fmt.Errorf("reading document %s: %w", d.Short(), err)
	}
	return payload, nil
}

// Desired admits what is on record for a profile once more, at now.
func (s *Store) Desired(h release.Host, now time.Time) (reconcile.Desired, *Opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := reconcile.Desired{Refusal: s.refused[h.Profile]}
	target, revert, err := s.admit(h, now)
	switch {
	case err != nil && d.Refusal.Code == "":
		d.Refusal = reasonOf(err)
	case err == nil && target != nil:
		ref := target.Ref()
		d.Target, d.Revert = &ref, revert
	}
	return d, target
}

func (s *Store) admit(h release.Host, now time.Time) (target *Opened, revert bool, err error) {
	p, ok := s.pointers[h.Profile]
	if !ok {
		return nil, false, nil
	}
	newest, err := s.load(p.Newest)
	if err == nil && s.deadly[p.Newest] {
		err = release.ErrDeadly
	}
	if err != nil {
		return nil, false, err
	}
	if err := s.trust.Admit(h, newest.Generation, newest.Secrets, now); err != nil {
		return nil, false, err //nolint:wrapcheck // It says what was admitted.
	}
	if p.Revert == "" {
		return newest, false, nil
	}
	back, err := s.load(p.Revert)
	if err == nil {
		err = s.trust.AdmitRevert(h, newest.Generation, newest.Secrets, back.Generation, back.Secrets, now)
	}
	if err != nil {
		return nil, false, err //nolint:wrapcheck // It says what was admitted.
	}
	return back, true, nil
}

// Newest returns the newest generation on record for a profile, admissible
// now or not: its signed policy still rules. It is nil where there is none.
func (s *Store) Newest(profile fleet.ProfileName) *Opened {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pointers[profile]
	if !ok {
		return nil
	}
	o, err := s.load(p.Newest)
	if err != nil {
		return nil
	}
	return o
}

// Prune removes documents that are neither pointed at nor in keep.
func (s *Store) Prune(keep map[fleet.Digest]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := map[string]bool{}
	for d := range keep {
		used[d.Hex()+".json"] = true
	}
	for _, p := range s.pointers {
		used[p.Newest.Hex()+".json"] = true
		used[p.Revert.Hex()+".json"] = true
	}
	entries, err := os.ReadDir(s.documentsDir())
	if err != nil {
		return fmt.Errorf("pruning documents: %w", err)
	}
	for _, e := range entries {
		if used[e.Name()] {
			continue
		}
		crashpoint.Hit(crashpoint.DocumentRemove)
		if err := os.Remove(filepath.Join(s.documentsDir(), e.Name())); err != nil {
			return fmt.Errorf("pruning documents: %w", err)
		}
		crashpoint.Hit(crashpoint.DocumentRemoved)
		hex, _ := strings.CutSuffix(e.Name(), ".json")
		delete(s.opened, fleet.Digest("sha256:"+hex))
	}
	return nil
}
