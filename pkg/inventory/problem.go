package inventory

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Sentinels that problems wrap. Problems about names wrap fleet.ErrName, those
// about size, depth, duplicate keys and syntax the sentinels of pkg/strictjson.
var (
	// ErrUnknown is a name or key that nothing declares.
	ErrUnknown = errors.New("unknown")
	// ErrConflict is two different definitions of one thing.
	ErrConflict = errors.New("conflict")
	// ErrInvalid is a value of the wrong type or out of its range.
	ErrInvalid = errors.New("invalid value")
)

// Place is a line of a file.
type Place struct {
	File string `json:"file"`
	// Line counts from 1; 0 where the problem is about the whole file.
	Line int `json:"line,omitempty"`
}

// String is "file:line".
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// Problem is one thing that is wrong with an inventory or a fleet file.
type Problem struct {
	Place
	// Message says what is wrong.
	Message string `json:"message"`
	// Hint says what to do.
	Hint string `json:"hint,omitempty"`

	kind error
}

// Error is "file:line: message: hint".
func (p *Problem) Error() string {
	s := p.String() + ": " + p.Message
	if p.Hint != "" {
		s += ": " + p.Hint
	}
	return s
}

// Unwrap returns the sentinel that says what kind of problem this is.
func (p *Problem) Unwrap() error { return p.kind }

// Problems are all problems of a file, by place. As an error it is never
// empty.
type Problems []*Problem

// Error has one problem on each line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is and errors.As look at every problem.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// ProblemsOf returns the problems that an error of this package has, or nil
// where it is none of a file's content.
func ProblemsOf(err error) Problems {
	var ps Problems
	var p *Problem
	switch {
	case errors.As(err, &ps):
		return slices.Clone(ps)
	case errors.As(err, &p):
		return Problems{p}
	}
	return nil
}

// maxProblems bounds what is collected from one document: who has more has
// given the wrong file.
const maxProblems = 100

// collector gathers problems.
type collector struct{ problems Problems }

func (c *collector) add(at Place, kind error, message, hint string) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, &Problem{Place: at, Message: message, Hint: hint, kind: kind})
	}
}

// err returns the problems by place, or nil where there are none.
func (c *collector) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	return sorted(c.problems)
}

// sorted returns ps by place, each one once.
func sorted(ps Problems) Problems {
	if len(ps) == 0 {
		return nil
	}
	ps = slices.Clone(ps)
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(ps, func(p *Problem) bool {
		text := p.Error()
		twice := seen[text]
		seen[text] = true
		return twice
	})
}

// clip bounds what an error repeats of outside bytes.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// quote is clip in quotes, with control characters escaped.
func quote(s string) string { return strconv.Quote(clip(s)) }
