package nix

import (
	"errors"
	"fmt"
	"strings"
)

// ErrAttrPath is wrapped by every error about a malformed attribute path.
var ErrAttrPath = errors.New("malformed attribute path")

// maxAttrPath bounds an attribute path, in bytes.
const maxAttrPath = 1024

// ParseAttrPath splits an attribute path into its names, as the nix program
// does: at dots, save between double quotes, in which nothing is escaped.
func ParseAttrPath(s string) ([]string, error) {
	bad := func(what string) ([]string, error) {
		return nil, fmt.Errorf("%w %q: %s", ErrAttrPath, clip(s), what)
	}
	if s == "" || len(s) > maxAttrPath {
		return bad(fmt.Sprintf("it must have 1 to %d bytes", maxAttrPath))
	}
	// What separates the attribute from flake and outputs on nix's command line.
	if strings.ContainsAny(s, "#^") || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) || s[0] == '-' {
		return bad("it has a character that an attribute of a flake cannot have here")
	}
	var names []string
	var name strings.Builder
	quoted, wasQuoted := false, false
	end := func() bool {
		if name.Len() == 0 && !wasQuoted {
			return false
		}
		names = append(names, name.String())
		name.Reset()
		wasQuoted = false
		return true
	}
	for _, r := range s {
		switch {
		case r == '"':
			quoted, wasQuoted = !quoted, true
		case r == '.' && !quoted:
			if !end() {
				return bad("a name in it is empty")
			}
		default:
			name.WriteRune(r)
		}
	}
	if quoted {
		return bad("a quote is not closed")
	}
	if !end() {
		return bad("a name in it is empty")
	}
	return names, nil
}
