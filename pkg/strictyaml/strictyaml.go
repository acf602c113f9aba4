// Package strictyaml looks at the tokens of a YAML document from outside before a parser
// does, which recurses and is slow on deep nesting: they are bounded, and what makes a
// document something else than it looks like (YAML 1.2.2, sections 3.2.2.2, 6.8 and 7.1)
// is refused. What is wrong is told with its line and no text of the document, which may
// be secret.
package strictyaml

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// Bounds of every document.
const (
	// MaxDepth bounds nesting.
	MaxDepth = 64
	// maxColumn is where what nests may begin: blocks are as deep as they are indented.
	maxColumn = 1024
)

// Kind says what is wrong with a document.
type Kind int

// What can be wrong.
const (
	_ Kind = iota
	TooManyTokens
	TooDeep
	NotYAML
	// NotRead is a sign that is YAML, and not read here.
	NotRead
)

// Error says what is wrong, and where.
type Error struct {
	Kind Kind
	// Line counts from 1; 0 is the document as a whole.
	Line int
	// Sign names what is not read: "anchors (&)".
	Sign string
	// Token is what is not valid, for callers whose documents are no secret.
	Token *token.Token
}

func (e *Error) Error() string {
	what := "not valid YAML"
	switch e.Kind {
	case TooManyTokens:
		return "more words and signs than are read"
	case TooDeep:
		what = fmt.Sprintf("nested more than %d levels deep", MaxDepth)
	case NotRead:
		what = e.Sign + " are not read; write the value out"
	case NotYAML:
	}
	return fmt.Sprintf("line %d: %s", e.Line, what)
}

// Check looks at the tokens of a document, which may be at most so many. Anchors and
// aliases are refused unless the caller follows them, and bounds what they make. The
// error is an *Error.
func Check(tokens token.Tokens, most int, aliases bool) error {
	if len(tokens) > most {
		return &Error{Kind: TooManyTokens}
	}
	depth, row, inRow := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != row {
			row, inRow = t.Position.Line, 0
		}
		switch t.Type { //nolint:exhaustive // Only signs that are wrong, or nest.
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType:
			inRow++
		case token.InvalidType:
			return &Error{Kind: NotYAML, Line: row, Token: t}
		}
		if sign := notRead(t.Type, aliases); sign != "" {
			return &Error{Kind: NotRead, Line: row, Sign: sign}
		}
		nests := t.Type == token.SequenceEntryType || t.Prev == nil || t.Prev.Position.Line != row
		if depth > MaxDepth || inRow > MaxDepth || nests && t.Position.Column > maxColumn {
			return &Error{Kind: TooDeep, Line: row}
		}
	}
	return nil
}

// notRead names a sign that is refused.
func notRead(t token.Type, aliases bool) string {
	switch t { //nolint:exhaustive // Only what is refused.
	case token.AnchorType:
		if !aliases {
			return "anchors (&)"
		}
	case token.AliasType:
		if !aliases {
			return "aliases (*)"
		}
	case token.MergeKeyType:
		return "merge keys (<<)"
	case token.TagType:
		return "tags (!)"
	case token.DirectiveType:
		return "directives (%)"
	case token.MappingKeyType:
		return "complex keys (?)"
	}
	return ""
}
