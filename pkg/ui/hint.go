// Package ui is what programs show to people: tables and JSON, colours and
// progress only on a terminal, and errors that say what to do next.
package ui

import "slices"

// hinted is an error with advice for whoever reads it.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

// WithHint attaches to err what a person should do next. The hint is shown
// apart from the error's text. A nil err stays nil.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hinted{error: err, hint: hint}
}

// HintOf returns the outermost hint attached to err, the first of several errors
// that are joined; or "".
func HintOf(err error) string {
	if all := Hints(err); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Hints returns the outermost hint of each of the errors that are joined in err.
func Hints(err error) []string {
	switch e := err.(type) { //nolint:errorlint // It goes through all that err wraps.
	case *hinted:
		if e.hint != "" {
			return []string{e.hint}
		}
		return Hints(e.error)
	case interface{ Unwrap() error }:
		return Hints(e.Unwrap())
	case interface{ Unwrap() []error }:
		var all []string
		for _, one := range e.Unwrap() {
			for _, hint := range Hints(one) {
				if !slices.Contains(all, hint) {
					all = append(all, hint)
				}
			}
		}
		return all
	}
	return nil
}
