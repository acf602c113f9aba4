package execute

import (
	"errors"
	"fmt"

	"github.com/cameronraysmith/fleet/agent/internal/bootentry"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// errNotDefault says that something else boots by default than what is to stay.
var errNotDefault = errors.New("it is not what boots by default")

// bootOnce is the program that has the boot loader boot something once. Which entry that
// is shows only now: the steps before make it.
func bootOnce(b driver.BootOnce) (*driver.Exec, error) {
	var loader bootentry.Loader = bootentry.Specification{Dir: b.Entries}
	if b.Loader == driver.LoaderGRUB {
		loader = bootentry.GRUB{Dir: b.Entries}
	}
	id := ""
	if b.Init != "" {
		var err error
		if id, err = loader.Find(b.Init); err != nil {
			return nil, fmt.Errorf("booting once: %w", err)
		}
		// The loader's number of entries is limited, say.
		if stays, err := loader.Boots(b.Stays); err != nil || !stays {
			return nil, fmt.Errorf("booting once: %s would not boot afterwards: %w", b.Stays, errors.Join(err, errNotDefault))
		}
	}
	x := &driver.Exec{Argv: append([]string{b.Program}, loader.Once(id)...)}
	if id == "" {
		// A way back must not end because nothing is booted once: mostly it was already.
		x.OKCodes = []int{1}
	}
	return x, nil
}
