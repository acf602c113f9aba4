package service

import (
	"fmt"

	kardianos "github.com/kardianos/service"
)

// chosen is the init system that runs this machine, as the library names it; ""
// where there is none.
func chosen() string {
	if s := kardianos.ChosenSystem(); s != nil {
		return s.String()
	}
	return ""
}

// libraryControl starts, stops and restarts by the library, which runs systemctl
// without a bound of its own: systemd's bounds (TimeoutStartSec) are those that
// count, and Ctrl-C reaches systemctl too.
func libraryControl(service string, verb Verb) error {
	s, err := kardianos.New(nil, &kardianos.Config{Name: service})
	if err != nil {
		return err //nolint:wrapcheck // The caller says what it was for.
	}
	switch verb {
	case Start:
		return s.Start() //nolint:wrapcheck // As above.
	case Stop:
		return s.Stop() //nolint:wrapcheck // As above.
	case Restart:
		return s.Restart() //nolint:wrapcheck // As above.
	}
	return fmt.Errorf("no such verb: %q", verb)
}
