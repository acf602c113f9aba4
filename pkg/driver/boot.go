package driver

import (
	"context"
	"fmt"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Loader is a kind of boot loader.
type Loader string

// The loaders that can boot something once.
const (
	// LoaderSpecification is one of the Boot Loader Specification
	// (uapi-group.org/specifications), whose entries are files, and which bootctl talks to.
	LoaderSpecification Loader = ""
	// LoaderGRUB is GRUB 2, which has one menu, and is told by grub-editenv.
	LoaderGRUB Loader = "grub"
)

// BootOnce has the boot loader boot a system at the next boot, and at no other: what
// boots by default stays.
type BootOnce struct {
	// Loader is of what kind the boot loader is.
	Loader Loader `json:"loader,omitempty"`
	// Program is systemd's bootctl, or grub-editenv, absolute.
	Program string `json:"program"`
	// Entries is the directory of the boot entries, or of GRUB's menu, absolute.
	Entries string `json:"entries"`
	// Stays is the init of the system that boots by default, absolute. Where its entry is
	// not there, or not the default, nothing is booted once: there would be no way back.
	Stays string `json:"stays,omitempty"`
	// Init is that of the system, absolute: its entry is the one whose kernel is started
	// with it. Empty: nothing is booted once any more.
	Init string `json:"init,omitempty"`
}

// Validate checks the paths.
func (b BootOnce) Validate() error {
	if b.Loader != LoaderSpecification && b.Loader != LoaderGRUB {
		return fmt.Errorf("boot loader %q is not known", string(b.Loader))
	}
	for _, p := range []struct{ what, path string }{{"boot loader's program", b.Program}, {"directory of boot entries", b.Entries}} {
		if err := checkPath(p.what, p.path); err != nil {
			return err
		}
	}
	if b.Init == "" {
		return nil
	}
	if err := checkPath("init that stays", b.Stays); err != nil {
		return err
	}
	return checkPath("init", b.Init)
}

// Boot is a way to a path that leads through a boot: the system is booted once, and is
// what boots by default only when it was verified.
type Boot struct {
	Activation

	// Parts are what only a boot puts in place, for people; none: the path needs none.
	Parts []string
	// Cannot is why the host can't be booted so, for people; then there is no Activation.
	Cannot string
	// Alone is why the host might not come back without a person, for people; empty where
	// it does.
	Alone string
}

// Booter is the extra ability to have a path booted once.
type Booter interface {
	// Boot is Activation through a boot. Activate ends before it; Rollback works before
	// and after it, and leaves what boots as it was. It MUST only look.
	Boot(ctx context.Context, profile fleet.ProfileName, from, to string) (Boot, error)
}

// BootOf asks d, or the built-in driver behind d; with one that can't be asked nothing
// needs a boot.
func BootOf(ctx context.Context, d Driver, profile fleet.ProfileName, from, to string) (Boot, error) {
	b, ok := BuiltIn(d).(Booter)
	if !ok {
		return Boot{}, nil
	}
	boot, err := b.Boot(ctx, profile, from, to)
	if err != nil {
		return Boot{}, fmt.Errorf("describing boot: %w", err)
	}
	return boot, nil
}
