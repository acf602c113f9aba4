// Package desired keeps the signed documents that a host acts on: the trust
// roots it walked through, what is desired of each profile, and every accepted
// generation that is still of use. All of it is on disk before it counts, so
// that the agent works for days, and across restarts, without a coordinator.
package desired

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/quarantine"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Limits on what is kept.
const (
	// maxRoots bounds the chain of trust roots: ten thousand changes of keys.
	maxRoots = 10_000
	// maxFileBytes bounds a stored document: two envelopes in base64.
	maxFileBytes = 4 * fleet.MaxDocumentBytes
)

// ErrNotHere says that a document is not, or no longer, on this host.
var ErrNotHere = errors.New("document is not on this host")

// Document is a generation with its secrets manifest, as they were signed.
type Document struct {
	Generation []byte `json:"generation"`
	Secrets    []byte `json:"secrets,omitempty"`
}

// Pointer says what the coordinator last desired of a profile and the host
// found admissible.
type Pointer struct {
	Newest fleet.Digest `json:"newest"`
	// Revert is empty unless the coordinator sends the host back.
	Revert fleet.Digest `json:"revert,omitempty"`
}

// Opened is a generation whose signatures were verified, now or when it was
// accepted.
type Opened struct {
	Generation *release.Signed[fleet.Generation]
	Secrets    *release.Signed[fleet.SecretsManifest] // nil where it names none
}

// Ref names the generation.
func (o *Opened) Ref() fleet.Ref {
	g := o.Generation
	return fleet.Ref{Number: g.Doc.Number, Digest: g.Digest, Release: g.Doc.Release}
}

// Blobs lists all that has to be fetched for the generation.
func (o *Opened) Blobs() []fleet.BlobRef {
	return append(o.Generation.Doc.Source.Blobs(), o.SecretBlobs()...)
}

// SecretBlobs lists the ciphertexts among them.
func (o *Opened) SecretBlobs() []fleet.BlobRef {
	var refs []fleet.BlobRef
	if o.Secrets != nil {
		for _, e := range o.Secrets.Doc.Entries {
			refs = append(refs, fleet.BlobRef{Digest: e.Digest, Size: e.Size})
		}
	}
	return refs
}

// Store keeps documents below one directory. It is safe for concurrent use.
type Store struct {
	dir string
	pin fleet.Digest

	mu sync.Mutex
	// floor is the lowest version of the trust root that may judge anything.
	floor    uint64
	damaged  map[string]error           // files that could not be read, by path
	trust    *release.Trust             // nil until the first root is here
	walked   map[[sha256.Size]byte]bool // roots that are here, by envelope
	pointers map[fleet.ProfileName]Pointer
	opened   map[fleet.Digest]*Opened
	refused  map[fleet.ProfileName]fleet.Reason
	// freshness is the newest statement; nil while there is none.
	freshness *release.Signed[fleet.Freshness]
	// attempts are at opening a document; nil for no record of them. deadly are documents
	// that are left alone, by digest.
	attempts *quarantine.Ledger
	deadly   map[fleet.Digest]bool
}

// Open reads what is there. The trust root must walk from pin, and judges
// nothing while it is older than version floor, the one that is on record.
// Files that are damaged are passed over, and Damage tells of them: what was in
// them comes with the coordinator's next answer.
func Open(dir string, pin fleet.Digest, floor uint64) (*Store, error) {
	s := &Store{
		dir: dir, pin: pin, floor: floor, damaged: map[string]error{}, walked: map[[sha256.Size]byte]bool{},
		pointers: map[fleet.ProfileName]Pointer{},
		opened:   map[fleet.Digest]*Opened{},
		refused:  map[fleet.ProfileName]fleet.Reason{},
	}
	for _, d := range []string{s.rootsDir(), s.documentsDir(), s.profilesDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening desired documents: %w", err)
		}
	}
	if err := s.loadRoots(); err != nil {
		return nil, fmt.Errorf("opening desired documents: %w", err)
	}
	if err := s.loadFreshness(); err != nil {
		return nil, fmt.Errorf("opening desired documents: %w", err)
	}
	if err := s.loadPointers(); err != nil {
		return nil, fmt.Errorf("opening desired documents: %w", err)
	}
	return s, nil
}

// Watch has each attempt to open a document be on record, so that one of which the agent
// died is left alone; it is called before anything else.
func (s *Store) Watch(attempts *quarantine.Ledger) { s.attempts = attempts }

// Quarantine leaves a document alone, or, where that is over, no longer: it counts as
// refused meanwhile.
func (s *Store) Quarantine(d fleet.Digest, deadly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadly == nil {
		s.deadly = map[fleet.Digest]bool{}
	}
	s.deadly[d] = deadly
}

// NewestDigest is that of the newest generation on record for a profile, of which nothing
// is read; empty for none.
func (s *Store) NewestDigest(profile fleet.ProfileName) fleet.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pointers[profile].Newest
}

// Pardon ends all quarantines.
func (s *Store) Pardon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.deadly)
}

// rootsDir is one for each root that the host was told to start from.
func (s *Store) rootsDir() string     { return rootsOf(s.dir, s.pin) }
func (s *Store) documentsDir() string { return filepath.Join(s.dir, "documents") }
func (s *Store) profilesDir() string  { return filepath.Join(s.dir, "profiles") }

func rootsOf(dir string, pin fleet.Digest) string { return filepath.Join(dir, "roots", pin.Hex()) }

func rootFile(dir string, version uint64) string {
	return filepath.Join(dir, strconv.FormatUint(version, 10)+".json")
}

func (s *Store) loadRoots() error {
	entries, err := os.ReadDir(s.rootsDir())
	if err != nil {
		return fmt.Errorf("reading trust roots: %w", err)
	}
	var versions []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		v, err := strconv.ParseUint(name, 10, 64)
		if ok && err == nil {
			versions = append(versions, v)
		}
	}
	if len(versions) == 0 {
		return nil
	}
	if len(versions) > maxRoots {
		return fmt.Errorf("%d trust roots in %s, at most %d", len(versions), s.rootsDir(), maxRoots)
	}
	slices.Sort(versions)
	for _, v := range versions {
		b, err := atomicfile.ReadAtMost(s.rootPath(v), maxFileBytes)
		if err == nil {
			var next *release.Trust
			if next, err = s.nextRoot(b); err == nil {
				s.trust = next
				s.walked[sha256.Sum256(b)] = true
				continue
			}
		}
		// Those after it follow on nothing until it is here again.
		s.damaged[s.rootPath(v)] = err
		return nil
	}
	return nil
}

// Damage names the files that could not be read and were not replaced yet, in
// order; nil where there are none.
func (s *Store) Damage() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(s.damaged)) {
		errs = append(errs, fmt.Errorf("%s is damaged: %w", path, s.damaged[path]))
	}
	if s.trust == nil && s.floor > 0 || s.trust != nil && s.trust.Root().Version < s.floor {
		errs = append(errs, s.behind())
	}
	return errors.Join(errs...)
}

// behind says that the trust root may not judge; s.mu is held.
func (s *Store) behind() error {
	v := uint64(0)
	if s.trust != nil {
		v = s.trust.Root().Version
	}
	return fmt.Errorf("%w: the trust root in %s is of version %d, this host had %d", release.ErrRootVersion, s.rootsDir(), v, s.floor)
}

// judge is the trust root that may judge documents; s.mu is held.
func (s *Store) judge() (*release.Trust, error) {
	switch {
	case s.trust != nil && s.trust.Root().Version >= s.floor:
		return s.trust, nil
	case s.floor > 0:
		return nil, s.behind()
	}
	return nil, fmt.Errorf("%w: this host has no trust root yet", release.ErrRootVersion)
}

func (s *Store) rootPath(version uint64) string { return rootFile(s.rootsDir(), version) }

// Trust is the newest trust root, nil before the first, and while only older
// ones than the host had are here.
func (s *Store) Trust() *release.Trust {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.judge()
	if err != nil {
		return nil
	}
	return t
}

// RootVersion is the version of the newest trust root that is here, 0 before
// the first.
func (s *Store) RootVersion() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust == nil {
		return 0
	}
	return s.trust.Root().Version
}

// AddRoots walks on from the newest trust root, oldest first, and keeps each.
// Versions already here are passed over. It stops at the first refusal; what
// was walked before stays.
func (s *Store) AddRoots(envelopes [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.trust
	err := s.walk(envelopes)
	if s.trust == before {
		return err
	}
	s.freshness = nil
	return errors.Join(err, s.loadFreshness())
}

// walk is AddRoots without what follows from another root; s.mu is held.
func (s *Store) walk(envelopes [][]byte) error {
	for _, env := range envelopes {
		if s.walked[sha256.Sum256(env)] {
			continue
		}
		next, err := s.nextRoot(env)
		if err != nil {
			return err
		}
		v := next.Root().Version
		if v > maxRoots {
			return fmt.Errorf("adding trust root: version %d, at most %d", v, maxRoots)
		}
		if err := atomicfile.WriteFile(s.rootPath(v), env, 0o600); err != nil {
			return fmt.Errorf("adding trust root: %w", err)
		}
		s.trust = next
		s.walked[sha256.Sum256(env)] = true
		delete(s.damaged, s.rootPath(v))
		// Whatever an older root admitted is judged anew.
		clear(s.opened)
	}
	return nil
}

func (s *Store) nextRoot(env []byte) (*release.Trust, error) {
	if s.trust == nil {
		return release.OpenRoot(env, s.pin) //nolint:wrapcheck // It says what was opened.
	}
	return s.trust.Next(env) //nolint:wrapcheck // It says what was opened.
}

// Profiles lists the profiles that something is or was desired of, sorted.
func (s *Store) Profiles() []fleet.ProfileName {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[fleet.ProfileName]bool{}
	var names []fleet.ProfileName
	for n := range s.pointers {
		seen[n] = true
		names = append(names, n)
	}
	for n := range s.refused {
		if !seen[n] {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

func (s *Store) loadPointers() error {
	entries, err := os.ReadDir(s.profilesDir())
	if err != nil {
		return fmt.Errorf("reading pointers: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(s.profilesDir(), e.Name())
		f, err := readPointer(path)
		if err != nil {
			s.damaged[path] = err
			continue
		}
		s.pointers[f.Profile] = f.Pointer
	}
	return nil
}

// readPointer knows all fields: one that has another name now must not pass for
// one that isn't there.
func readPointer(path string) (f pointerFile, err error) {
	b, err := atomicfile.ReadAtMost(path, maxFileBytes)
	if err == nil {
		err = strictjson.UnmarshalKnown(b, maxFileBytes, &f)
	}
	if err == nil {
		_, err = fleet.ParseProfileName(string(f.Profile))
	}
	if err == nil && filepath.Base(path) != f.Profile.FileName()+".json" {
		err = fmt.Errorf("it is of profile %s", f.Profile)
	}
	for _, d := range []fleet.Digest{f.Newest, f.Revert} {
		if err == nil && (d != "" || d == f.Newest) {
			_, err = fleet.ParseDigest(string(d))
		}
	}
	return f, err
}

type pointerFile struct {
	Profile fleet.ProfileName `json:"profile"`
	Pointer
}

// setPointer persists p where it differs from what is there; s.mu is held.
func (s *Store) setPointer(profile fleet.ProfileName, p Pointer) error {
	if s.pointers[profile] == p {
		return nil
	}
	b, err := json.Marshal(pointerFile{Profile: profile, Pointer: p})
	if err != nil {
		return fmt.Errorf("encoding pointer: %w", err)
	}
	path := filepath.Join(s.profilesDir(), profile.FileName()+".json")
	crashpoint.Hit(crashpoint.DesiredKept)
	if err := atomicfile.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("recording what is desired: %w", err)
	}
	s.pointers[profile] = p
	delete(s.damaged, path)
	return nil
}

// Floor is the newest signed time among the trust root and the documents in
// use: no honest clock is before it.
func (s *Store) Floor() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var floor time.Time
	later := func(t time.Time) {
		if t.After(floor) {
			floor = t
		}
	}
	if s.trust != nil {
		later(s.trust.Root().Issued)
	}
	if s.freshness != nil {
		later(s.freshness.Doc.Issued)
	}
	for _, p := range s.pointers {
		for _, d := range []fleet.Digest{p.Newest, p.Revert} {
			_, _ = s.load(d) // What can't be read is told where it is wanted.
		}
	}
	for _, o := range s.opened {
		later(o.Generation.Doc.Issued)
		if o.Secrets != nil {
			later(o.Secrets.Doc.Issued)
		}
	}
	return floor
}
