package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/cameronraysmith/fleet/pkg/strictjson"
	"github.com/cameronraysmith/fleet/pkg/strictyaml"
)

// maxTokens is beyond what the exact checks of yamlReader let through.
const maxTokens = 1 << 19

// readYAML reads the subset of YAML that a fleet file needs: one document of
// maps with plain keys, lists and scalars. Anchors, aliases, merge keys, tags
// and directives are refused, so the document is what it looks like and no
// larger. The error is a *Problem.
func readYAML(file string, data []byte) (*node, error) {
	if err := checkSize(file, data); err != nil {
		return nil, err
	}
	if err := checkText(file, data); err != nil {
		return nil, err
	}
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(file, tokens); err != nil {
		return nil, err
	}
	// Equal keys are let through here and refused below, naming both lines.
	doc, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, yamlProblem(file, err)
	}
	var body ast.Node
	for _, d := range doc.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			return nil, &Problem{
				Place: place(file, d.Body), kind: strictjson.ErrSyntax,
				Message: "a second document", Hint: "keep one; remove the line ---",
			}
		}
		body = d.Body
	}
	if body == nil {
		return nil, &Problem{
			Place: Place{File: file}, kind: strictjson.ErrSyntax,
			Message: "the file is empty", Hint: `it needs at least "fleet: <id>"`,
		}
	}
	r := &yamlReader{file: file}
	return r.value(body, place(file, body), 0)
}

// checkText refuses bytes that are no text, and so many separators that the
// tokens would need more memory than a fleet file is worth.
func checkText(file string, data []byte) error {
	line, separators := 1, 0
	for rest := data; len(rest) > 0; {
		c, size := utf8.DecodeRune(rest)
		if c == utf8.RuneError && size == 1 || c < ' ' && c != '\n' && c != '\t' && c != '\r' || c == 0x7f {
			return &Problem{
				Place: Place{File: file, Line: line}, kind: strictjson.ErrSyntax,
				Message: fmt.Sprintf("byte 0x%02x is no text", rest[0]), Hint: "the file must be UTF-8 without control characters",
			}
		}
		if bytes.IndexByte([]byte("\n,:-?[]{}#&*!"), rest[0]) >= 0 {
			separators++
		}
		if c == '\n' {
			line++
		}
		rest = rest[size:]
	}
	if separators > 2*maxTokens {
		return tooManyTokens(Place{File: file})
	}
	return nil
}

func tooManyTokens(at Place) error {
	return &Problem{
		Place: at, kind: strictjson.ErrTooLarge,
		Message: fmt.Sprintf("more than %d words and signs", maxTokens),
		Hint:    "keep the machines of a large fleet in a JSON inventory (inventory: {file: …})",
	}
}

// checkTokens refuses what strictyaml does, as a problem of the file.
func checkTokens(file string, tokens token.Tokens) error {
	bad, ok := errors.AsType[*strictyaml.Error](strictyaml.Check(tokens, maxTokens, false))
	if !ok {
		return nil
	}
	at := Place{File: file, Line: bad.Line}
	switch bad.Kind {
	case strictyaml.TooManyTokens:
		return tooManyTokens(at)
	case strictyaml.TooDeep:
		return tooDeep(at)
	case strictyaml.NotRead:
		return &Problem{Place: at, kind: ErrInvalid, Message: bad.Sign + " are not read", Hint: "write the value out"}
	case strictyaml.NotYAML:
		return &Problem{
			Place: at, kind: strictjson.ErrSyntax,
			Message: "not valid YAML: " + clip(bad.Token.Error), Hint: "correct the line",
		}
	}
	return &Problem{Place: at, kind: strictjson.ErrSyntax, Message: bad.Error(), Hint: "correct the file"}
}

func tooDeep(at Place) error {
	return &Problem{
		Place: at, kind: strictjson.ErrTooDeep,
		Message: fmt.Sprintf("nested more than %d levels deep", MaxDepth), Hint: "is this the right file?",
	}
}

func yamlProblem(file string, err error) error {
	p := &Problem{Place: Place{File: file}, kind: strictjson.ErrSyntax, Message: "not valid YAML", Hint: "correct the line"}
	if ye, ok := errors.AsType[yaml.Error](err); ok {
		p.Message += ": " + clip(ye.GetMessage())
		if t := ye.GetToken(); t != nil && t.Position != nil {
			p.Line = t.Position.Line
		}
	}
	return p
}

// place is where a node begins.
func place(file string, n ast.Node) Place {
	if n != nil {
		if t := n.GetToken(); t != nil && t.Position != nil {
			return Place{File: file, Line: t.Position.Line}
		}
	}
	return Place{File: file}
}

// yamlReader makes nodes out of parsed YAML.
type yamlReader struct {
	file  string
	nodes int
}

func (r *yamlReader) value(v ast.Node, at Place, depth int) (*node, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, tooManyTokens(at)
	}
	if depth > MaxDepth {
		return nil, tooDeep(at)
	}
	n := &node{at: at}
	switch v := v.(type) {
	case nil, *ast.NullNode:
		n.kind, n.text = kindNull, "null"
	case *ast.BoolNode:
		n.kind, n.text = kindBool, fmt.Sprint(v.Value)
	case *ast.IntegerNode:
		return n, r.number(n, v.Token.Value)
	case *ast.FloatNode:
		return n, r.number(n, v.Token.Value)
	case *ast.StringNode:
		n.kind, n.text = kindString, v.Value
	case *ast.LiteralNode:
		n.kind, n.text = kindString, v.Value.Value
	case *ast.SequenceNode:
		n.kind = kindList
		for _, item := range v.Values {
			e, err := r.value(item, place(r.file, item), depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, e)
		}
	case *ast.MappingNode:
		return n, r.object(n, v.Values, depth)
	case *ast.MappingValueNode:
		return n, r.object(n, []*ast.MappingValueNode{v}, depth)
	default:
		return nil, &Problem{
			Place: at, kind: ErrInvalid, Message: strings.ToLower(v.Type().String()) + " is not read here", Hint: "write a plain value",
		}
	}
	return n, nil
}

func (r *yamlReader) number(n *node, text string) error {
	if n.number(strings.TrimPrefix(text, "+")) {
		return nil
	}
	return &Problem{
		Place: n.at, kind: ErrInvalid, Message: "number " + clip(text) + " is not decimal, or beyond 64 bits",
		Hint: "write it in decimal, or in quotes if it is text",
	}
}

func (r *yamlReader) object(n *node, values []*ast.MappingValueNode, depth int) error {
	n.kind = kindMap
	seen := make(map[string]int, len(values))
	for _, v := range values {
		at := place(r.file, v.Key)
		var key string
		switch k := v.Key.(type) {
		case *ast.StringNode:
			key = k.Value
		case *ast.IntegerNode:
			key = k.Token.Value
		default:
			return &Problem{Place: at, kind: ErrInvalid, Message: "a key that is no text", Hint: "put it in quotes"}
		}
		if line, twice := seen[key]; twice {
			return duplicate(at, key, line)
		}
		seen[key] = at.Line
		// An absent value has the place of its key.
		valueAt := at
		if _, null := v.Value.(*ast.NullNode); v.Value != nil && !null {
			valueAt = place(r.file, v.Value)
		}
		e, err := r.value(v.Value, valueAt, depth+1)
		if err != nil {
			return err
		}
		n.entries = append(n.entries, entry{key: key, at: at, value: e})
	}
	return nil
}
