// Package ui is what programs show to people: tables and JSON, colours and
// progress only on a terminal, and errors that say what to do next.
package ui

import "errors"

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

// HintOf returns the outermost hint attached to err, or "".
func HintOf(err error) string {
	if h := (*hinted)(nil); errors.As(err, &h) {
		return h.hint
	}
	return ""
}
