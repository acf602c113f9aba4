// Package bootentry finds a system's entry among those of a boot loader, and says how the
// loader is asked to boot it once.
package bootentry

import "errors"

// ErrNone says that no entry starts a system.
var ErrNone = errors.New("no boot entry starts it")

// Loader is a boot loader that can boot something once. Its methods only look.
type Loader interface {
	// Find returns the id of an entry whose kernel is started with that init. It wraps
	// ErrNone.
	Find(init string) (id string, err error)
	// Boots says whether what boots by default is an entry whose kernel is started with
	// that init. It wraps ErrNone where there is no such entry.
	Boots(init string) (bool, error)
	// Once are the arguments with which the loader's own program has an entry be booted at
	// the next boot, and at no other; of the empty id, those that take that back.
	Once(id string) []string
}

var (
	_ Loader = Specification{}
	_ Loader = GRUB{}
)
