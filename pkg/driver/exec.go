package driver

import (
	"fmt"
	"slices"
	"strings"
)

// Exec runs a program.
type Exec struct {
	// Argv is the program (an absolute path) and its arguments.
	Argv []string `json:"argv"`
	// Env is the whole environment, NAME=VALUE.
	Env []string `json:"env,omitempty"`
	// User to run as; empty for the agent's own.
	User string `json:"user,omitempty"`
	// Dir is the working directory (an absolute path); empty for "/".
	Dir string `json:"dir,omitempty"`
	// Unless names a link: where that leads to its target already, over any number
	// of links, the program is not run, and the step has ended well.
	Unless *Link `json:"unless,omitempty"`
	// OKCodes are exit codes that count as success besides 0.
	OKCodes []int `json:"ok_codes,omitempty"`
	// BusyCodes are exit codes that say that nothing was done because something
	// else holds a lock: the program is run again after a pause, until the
	// deadline.
	BusyCodes []int `json:"busy_codes,omitempty"`
	// FailedUnitsCode is an exit code that says only that some systemd unit is
	// failed; 0 where none says that. It counts as success where no unit is failed
	// that was not failed before the program ran; that of the agent never counts.
	FailedUnitsCode int `json:"failed_units_code,omitempty"`
	// Contained says that the program starts nothing that is to outlive it: at the
	// deadline all that comes from it is ended, also in sessions of its own.
	Contained bool `json:"contained,omitempty"`
	// Meanings says what exit codes mean, for people.
	Meanings map[int]string `json:"meanings,omitempty"`
	// Parts are those of its work that a host can be without. An agent that does not
	// know them takes a failure in one for a failure of the program.
	Parts []Part `json:"parts,omitempty"`
}

// Part is a part of a program's work that a host can be without: where the program ends
// with a bad exit code in it, what comes after it is done by another program, and the step
// has ended well, but degraded.
type Part struct {
	// Name for people.
	Name string `json:"name"`
	// Heading is the line with which the program says that it begins the part.
	Heading string `json:"heading"`
	// Ends are lines with which it says that it is past it.
	Ends []string `json:"ends,omitempty"`
	// Rest is a program (an absolute path) and its arguments, which does what comes after
	// the part, with the environment, user and directory of the program. It MUST fail
	// where not all of that is done. Where it fails in a part in turn, that holds again.
	Rest []string `json:"rest"`
}

// Validate checks the part.
func (p Part) Validate() error {
	if len(p.Rest) == 0 {
		return fmt.Errorf("%w: part %q: no program for what comes after it", ErrAction, p.Name)
	}
	if err := checkPath("program", p.Rest[0]); err != nil {
		return err
	}
	if len(p.Rest) > MaxArgs || len(p.Ends) > MaxArgs {
		return fmt.Errorf("%w: part %q: at most %d arguments and lines are allowed", ErrAction, p.Name, MaxArgs)
	}
	for _, line := range append([]string{p.Name, p.Heading}, p.Ends...) {
		if line == "" || strings.ContainsAny(line, "\n\r\x00") || len(line) > MaxStringBytes {
			return fmt.Errorf("%w: part %q: want a name, a heading and ends of one line each, of at most %d bytes", ErrAction, p.Name, MaxStringBytes)
		}
	}
	for _, a := range p.Rest {
		if strings.ContainsRune(a, 0) || len(a) > MaxStringBytes {
			return fmt.Errorf("%w: part %q: an argument holds a NUL or is longer than %d bytes", ErrAction, p.Name, MaxStringBytes)
		}
	}
	return nil
}

// Validate checks the program.
func (e Exec) Validate() error {
	if len(e.Argv) == 0 {
		return fmt.Errorf("%w: no program", ErrAction)
	}
	if err := checkPath("program", e.Argv[0]); err != nil {
		return err
	}
	if e.Dir != "" {
		if err := checkPath("directory", e.Dir); err != nil {
			return err
		}
	}
	if len(e.Argv) > MaxArgs || len(e.Env) > MaxEnv {
		return fmt.Errorf("%w: %s: at most %d arguments and %d variables are allowed", ErrAction, e.Argv[0], MaxArgs, MaxEnv)
	}
	for _, v := range slices.Concat(e.Argv, e.Env, []string{e.User}) {
		if strings.ContainsRune(v, 0) || len(v) > MaxStringBytes {
			return fmt.Errorf("%w: %s: an argument or variable holds a NUL or is longer than %d bytes",
				ErrAction, e.Argv[0], MaxStringBytes)
		}
	}
	for _, v := range e.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return fmt.Errorf("%w: %s: a variable isn't NAME=VALUE", ErrAction, e.Argv[0])
		}
	}
	if e.Unless != nil {
		if e.Unless.Target == "" {
			return fmt.Errorf("%w: %s: a condition without a target", ErrAction, e.Argv[0])
		}
		if err := e.Unless.Validate(); err != nil {
			return err
		}
	}
	if len(e.Parts) > MaxParts {
		return fmt.Errorf("%w: %s: at most %d parts are allowed", ErrAction, e.Argv[0], MaxParts)
	}
	for _, p := range e.Parts {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	return e.validateCodes()
}

// validateCodes wants exit codes with one meaning each.
func (e Exec) validateCodes() error {
	if len(e.OKCodes) > MaxCodes || len(e.BusyCodes) > MaxCodes || len(e.Meanings) > MaxCodes {
		return fmt.Errorf("%w: %s: at most %d exit codes of a kind are allowed", ErrAction, e.Argv[0], MaxCodes)
	}
	seen := map[int]bool{}
	for _, c := range slices.Concat(e.OKCodes, e.BusyCodes, []int{e.FailedUnitsCode}) {
		if c < 0 || c > 255 {
			return fmt.Errorf("%w: %s: exit code %d: want 0 to 255", ErrAction, e.Argv[0], c)
		}
		if c != 0 && seen[c] {
			return fmt.Errorf("%w: %s: exit code %d is given two meanings", ErrAction, e.Argv[0], c)
		}
		seen[c] = true
	}
	if slices.Contains(e.BusyCodes, 0) {
		return fmt.Errorf("%w: %s: exit code 0 means success", ErrAction, e.Argv[0])
	}
	for c, text := range e.Meanings {
		if c < 0 || c > 255 || len(text) > MaxStringBytes {
			return fmt.Errorf("%w: %s: meaning of exit code %d: want a code of 0 to 255 and at most %d bytes",
				ErrAction, e.Argv[0], c, MaxStringBytes)
		}
	}
	return nil
}

func (e Exec) size() int {
	n := len(e.User) + len(e.Dir)
	for _, v := range slices.Concat(e.Argv, e.Env) {
		n += len(v)
	}
	if e.Unless != nil {
		n += len(e.Unless.Path) + len(e.Unless.Target)
	}
	for _, text := range e.Meanings {
		n += len(text)
	}
	for _, p := range e.Parts {
		n += len(p.Name) + len(p.Heading)
		for _, v := range slices.Concat(p.Ends, p.Rest) {
			n += len(v)
		}
	}
	return n
}
