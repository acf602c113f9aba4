package service

import (
	"fmt"
	"regexp"
)

// Record is what a definition says, in a comment, of the service that was
// installed with it.
type Record struct {
	Service string
	// Program is what the service runs; Copied says that install put it there.
	Program string
	Copied  bool
	// State is the service's state directory.
	State string
}

func (r Record) String() string {
	copied := "no"
	if r.Copied {
		copied = "yes"
	}
	return fmt.Sprintf("fleet: service=%s program=%s copied=%s state=%s", r.Service, r.Program, copied, r.State)
}

var recordText = regexp.MustCompile(`(?m)^(?:# |<!-- )fleet: service=(\S+) program=(\S+) copied=(yes|no) state=(\S+)(?: -->)?$`)

// recordOf finds the record of a service in a definition.
func recordOf(service, text string) (Record, bool) {
	f := recordText.FindStringSubmatch(text)
	if f == nil || f[1] != service {
		return Record{}, false
	}
	return Record{Service: f[1], Program: f[2], Copied: f[3] == "yes", State: f[4]}, true
}

// Record is that of the installed service. It wraps ErrNotInstalled, and
// ErrForeign where these programs did not install it.
func (h Host) Record(service string) (Record, error) {
	text, err := h.read(service)
	if err != nil {
		return Record{}, err
	}
	if text == "" {
		return Record{}, notInstalled(service)
	}
	r, ok := recordOf(service, text)
	if !ok {
		return Record{}, foreign(service, h.Manager.File(service))
	}
	return r, nil
}
