package desired

import (
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// PrepareReset makes another first trust root durable. It doesn't count before
// Reset, or before the store is opened with its digest as pin.
func (s *Store) PrepareReset(t *release.Trust) error {
	dir := rootsOf(s.dir, t.Digest())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keeping trust root: %w", err)
	}
	if err := atomicfile.WriteFile(rootFile(dir, t.Root().Version), t.Envelope(), 0o600); err != nil {
		return fmt.Errorf("keeping trust root: %w", err)
	}
	return atomicfile.SyncDir(s.dir)
}

// Reset starts from a root that was prepared. What older roots admitted is
// judged by this one from now on.
func (s *Store) Reset(t *release.Trust) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pin, s.trust, s.floor = t.Digest(), t, 0
	clear(s.damaged)
	clear(s.walked)
	s.walked[sha256.Sum256(t.Envelope())] = true
	clear(s.opened)
	clear(s.refused)
	s.freshness = nil
}

// Targets lists the newest documents on record, one for each profile at most.
func (s *Store) Targets() []fleet.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ds []fleet.Digest
	for _, p := range s.pointers {
		ds = append(ds, p.Newest)
	}
	return ds
}
