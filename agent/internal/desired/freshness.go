package desired

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

func (s *Store) freshnessPath() string { return filepath.Join(s.dir, "freshness.json") }

// loadFreshness reads the newest statement. One that today's trust root does
// not admit any more, or that was damaged, is as good as none: it says less
// than any that comes.
func (s *Store) loadFreshness() error {
	if s.trust == nil {
		return nil
	}
	b, err := atomicfile.ReadAtMost(s.freshnessPath(), maxFileBytes)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, atomicfile.ErrTooLarge) {
		return nil
	}
	if err != nil {
		return err
	}
	if f, err := s.trust.OpenFreshness(b); err == nil {
		s.freshness = f
	}
	return nil
}

// TakeFreshness keeps a freshness statement for the machine, where it is newer
// than the one that is kept; latest is as in release.Host. Refusals are
// pkg/release's errors.
func (s *Store) TakeFreshness(f fleet.FleetID, m fleet.MachineName, latest time.Time, envelope []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trust == nil {
		return nil
	}
	statement, err := s.trust.OpenFreshness(envelope)
	if err != nil {
		return err //nolint:wrapcheck // It says what was opened.
	}
	var last time.Time
	if s.freshness != nil {
		if s.freshness.Digest == statement.Digest {
			return nil
		}
		last = s.freshness.Doc.Issued
	}
	if err := s.trust.AdmitFreshness(f, m, last, latest, statement); err != nil {
		return err //nolint:wrapcheck // It says what was admitted.
	}
	if err := atomicfile.WriteFile(s.freshnessPath(), envelope, 0o600); err != nil {
		return fmt.Errorf("keeping freshness statement: %w", err)
	}
	s.freshness = statement
	return nil
}

// Freshness is the newest statement; nil where there is none that today's
// trust root admits.
func (s *Store) Freshness() *release.Signed[fleet.Freshness] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freshness
}
