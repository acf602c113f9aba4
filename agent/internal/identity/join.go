package identity

import (
	"errors"
	"fmt"
	"os"

	"github.com/cameronraysmith/fleet/pkg/fleet"

	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// SetJoin records a join string before it is used, so that a crash in the
// middle of enrolling only means to ask again with the same token and key.
// It returns ErrOtherHost where this host is enrolled as another machine or in
// another fleet; one that never came to anything is replaced.
func (s *Store) SetJoin(j pki.Join) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.binding; s.leaf != nil && b.Machine != "" && (b.Machine != j.Machine || b.Fleet != j.Fleet) {
		return fmt.Errorf("%w: this state directory is of %s in fleet %s, the join string of %s in fleet %s; use a fresh state directory",
			ErrOtherHost, b.Machine, b.Fleet, j.Machine, j.Fleet)
	}
	keys, err := s.HostKeys(j.Machine)
	if err != nil {
		return err
	}
	next := Binding{
		Fleet: j.Fleet, Machine: j.Machine, Addresses: j.Addresses, CA: j.CA, Root: j.Root,
		Issued: j.Issued, HostKeysMAC: j.MAC(keys),
	}
	// The trust root that this host already walked from stays its pin.
	if s.binding.Root != "" && s.leaf != nil {
		next.Root = s.binding.Root
	}
	if err := atomicfile.WriteFile(s.path(joinFile), []byte(j.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("recording join string: %w", err)
	}
	if s.leaf != nil {
		// Until the coordinator has answered, what the host is enrolled with counts.
		s.next = &next
		return nil
	}
	if err := s.setBinding(next); err != nil {
		return fmt.Errorf("recording join string: %w", err)
	}
	return nil
}

// coming is the binding that the next certificate has to be for.
func (s *Store) coming() (Binding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		return *s.next, nil
	}
	if s.binding.Machine == "" {
		return Binding{}, ErrNotEnrolled
	}
	return s.binding, nil
}

// Repin has the host start from the trust root with that digest, when it is
// opened next.
func (s *Store) Repin(root fleet.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.binding.Machine == "" {
		return ErrNotEnrolled
	}
	b, next := s.binding, s.next
	b.Root = root
	err := s.setBinding(b)
	s.next = next
	return err
}

// setBinding makes b durable; s.mu is held.
func (s *Store) setBinding(b Binding) error {
	data, err := encodeBinding(b)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(s.path(bindingFile), data, 0o600); err != nil {
		return err //nolint:wrapcheck // It names the file.
	}
	s.binding, s.next = b, nil
	return nil
}

// EnrolledWith says whether the identity was made with that join string.
func (s *Store) EnrolledWith(j pki.Join) (bool, error) {
	keys, err := s.HostKeys(j.Machine)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leaf != nil && s.binding.Machine == j.Machine && j.CheckMAC(keys, s.binding.HostKeysMAC), nil
}

// PendingJoin is the join string that enrolling is still to be done with; ok
// is false where there is none.
func (s *Store) PendingJoin() (j pki.Join, ok bool, err error) {
	b, err := atomicfile.ReadAtMost(s.path(joinFile), maxFileBytes)
	if errors.Is(err, os.ErrNotExist) {
		return pki.Join{}, false, nil
	}
	if err == nil {
		j, err = pki.ParseJoin(string(b))
	}
	if err != nil {
		return pki.Join{}, false, fmt.Errorf("reading recorded join string: %w", err)
	}
	return j, true, nil
}
