package agent

import (
	"errors"
	"runtime"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/nixdriver"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// openDrivers opens the built-in drivers that make sense on this host: bundles
// everywhere, nix and home where there is a nix, nixos and
// darwin where that is what runs.
func (o *runOptions) openDrivers(bundles string) (_ map[string]driver.Driver, stop func() error, err error) {
	bundle, err := bundledriver.New(bundledriver.Config{Root: bundles, Path: o.path})
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // It says what failed.
	}
	drivers := map[string]driver.Driver{bundledriver.Name: bundle}
	nix := nixdriver.Config{Path: o.path, MaxJobs: o.maxJobs, Unchecked: o.skipChecks}
	if nixdriver.HasNix(nix) {
		drivers[nixdriver.NameOutPath] = nixdriver.NewOutPath(nix)
		drivers[nixdriver.NameHome] = nixdriver.NewHome(nix)
		if runtime.GOOS == "darwin" {
			drivers[nixdriver.NameDarwin] = nixdriver.NewDarwin(nix)
		}
		if nixdriver.IsNixOS("/") {
			drivers[nixdriver.NameNixOS] = nixdriver.NewNixOS(nix)
		}
	}
	return connect(drivers)
}

// connect serves drivers to this process.
func connect(builtin map[string]driver.Driver) (map[string]driver.Driver, func() error, error) {
	connected := map[string]driver.Driver{}
	var stops []func() error
	stop := func() error {
		var errs []error
		for _, s := range stops {
			errs = append(errs, s())
		}
		return errors.Join(errs...)
	}
	for name, d := range builtin {
		c, s, err := driver.InProcess(d)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		connected[name] = c
		stops = append(stops, s)
	}
	return connected, stop, nil
}
