//go:build !linux && !darwin

package secrets

import "errors"

func inMemory(string) bool { return false }

func mountMemory(string, func(string) error) error {
	return errors.Join(ErrNoMemory, errors.ErrUnsupported)
}

func clearBeneath(string) error { return nil }

// Unmount has nothing to take away here.
func Unmount(string) error { return nil }
