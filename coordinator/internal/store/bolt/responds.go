package bolt

// Responds returns when a write and a read could begin now: it does not while a
// batch is being written, and never where one got stuck. Of a store that ended
// itself it returns at once.
func (s *Store) Responds() {
	if s.halted.Load() != nil {
		return
	}
	s.queueMu.Lock()
	s.queueMu.Unlock() //nolint:staticcheck // That it could be taken is all.
	s.writeMu.Lock()
	s.writeMu.Unlock() //nolint:staticcheck // As above.
	s.stateMu.RLock()
	s.stateMu.RUnlock() //nolint:staticcheck // As above.
}
