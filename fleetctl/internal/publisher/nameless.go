package publisher

import (
	"errors"
	"os"
)

// unnamed makes a file and takes its name away at once, where there is no way to
// make one without: a kill between the two leaves it, empty.
func unnamed(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "fleetctl-bundle-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
