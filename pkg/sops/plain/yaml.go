package plain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/jsontree"
	"github.com/cameronraysmith/fleet/pkg/sops/internal/seal"
	"github.com/cameronraysmith/fleet/pkg/strictyaml"
)

// Bounds that keep the YAML library, which recurses, away from what could exhaust it.
const (
	maxTokens = 1 << 18
	maxNodes  = 1 << 18
	maxDepth  = strictyaml.MaxDepth
)

// readYAML reads one document of maps with text keys, lists and scalars. What another reader
// could take for something else is refused by name: aliases and tags, and scalars whose type
// depends on who reads them.
func readYAML(data []byte) (*jsontree.Value, error) {
	body, err := parseYAML(data, false)
	if err != nil || body == nil {
		return nil, err
	}
	return (&yamlReader{}).value(body, 0)
}

// parseYAML parses text; the node is nil where there is nothing in it.
func parseYAML(data []byte, aliases bool) (ast.Node, error) {
	if !utf8.Valid(data) || bytes.ContainsRune(data, 0) {
		return nil, errors.New("it is no text in UTF-8")
	}
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens, aliases); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, errors.New("not valid YAML") // The library's words quote lines, which may be secret.
	}
	var body ast.Node
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			return nil, fmt.Errorf("%w: several documents in one file; make a file of each", sops.ErrUnsupported)
		}
		body = d.Body
	}
	return body, nil
}

// checkTokens refuses what strictyaml does, in the words of this package.
func checkTokens(tokens token.Tokens, aliases bool) error {
	err := strictyaml.Check(tokens, maxTokens, aliases)
	if bad, ok := errors.AsType[*strictyaml.Error](err); ok && bad.Kind == strictyaml.NotRead {
		return fmt.Errorf("line %d: %w: %s; write the value out", bad.Line, sops.ErrUnsupported, bad.Sign)
	}
	return err
}

// yamlReader makes a tree as JSON has it out of nodes.
type yamlReader struct {
	// anchors are known where aliases are followed, else nil.
	anchors map[string]ast.Node
	nodes   int
}

func (r *yamlReader) value(n ast.Node, depth int) (*jsontree.Value, error) {
	if r.nodes++; r.nodes > maxNodes || depth > maxDepth {
		return nil, fmt.Errorf("more than %d values, or nested more than %d levels deep", maxNodes, maxDepth)
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return jsontree.NewScalar(jsontree.Null, "null"), nil
	case *ast.BoolNode:
		return jsontree.NewScalar(jsontree.Bool, fmt.Sprint(n.Value)), nil
	case *ast.IntegerNode:
		return scalar(n.Token)
	case *ast.FloatNode:
		return scalar(n.Token)
	case *ast.LiteralNode:
		return jsontree.NewString(n.Value.Value), nil
	case *ast.StringNode:
		if n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType {
			return jsontree.NewString(n.Value), nil
		}
		return scalar(n.Token)
	case *ast.MappingNode:
		return r.object(n.Values, depth)
	case *ast.MappingValueNode:
		return r.object([]*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		a := &jsontree.Value{Kind: jsontree.Array}
		for _, e := range n.Values {
			v, err := r.value(e, depth+1)
			if err != nil {
				return nil, err
			}
			a.Elements = append(a.Elements, v)
		}
		return a, nil
	case *ast.AnchorNode:
		if r.anchors != nil {
			r.anchors[n.Name.String()] = n.Value
			return r.value(n.Value, depth+1)
		}
	case *ast.AliasNode:
		if to, ok := r.anchors[n.Value.String()]; ok {
			return r.value(to, depth+1)
		}
	}
	return nil, fmt.Errorf("line %d: %w: %s", n.GetToken().Position.Line, sops.ErrUnsupported, n.Type())
}

func (r *yamlReader) object(values []*ast.MappingValueNode, depth int) (*jsontree.Value, error) {
	o := &jsontree.Value{Kind: jsontree.Object}
	seen := map[string]bool{}
	for _, m := range values {
		line := m.GetToken().Position.Line
		key, ok := m.Key.(ast.Node).(*ast.StringNode)
		if !ok {
			return nil, fmt.Errorf("line %d: %w: a key that is no text; quote it", line, sops.ErrUnsupported)
		}
		if seen[key.Value] {
			return nil, fmt.Errorf("line %d: a key stands twice in one map", line)
		}
		seen[key.Value] = true
		v, err := r.value(m.Value, depth+1)
		if err != nil {
			return nil, err
		}
		o.Append(key.Value, v)
	}
	return o, nil
}

// Plain scalars of which all readers think the same.
var (
	integer = regexp.MustCompile(`^[-+]?(0|[1-9][0-9]*)$`)
	float   = regexp.MustCompile(`^[-+]?[0-9]+\.[0-9]+([eE][-+]?[0-9]+)?$`)
	// doubtful is a number or time to some, and text to others.
	doubtful = regexp.MustCompile(`^([-+.]?[0-9][0-9_.:eExXoObBa-fA-F+-]*([Tt ][0-9:.]+.*)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|=|<<)$`)
)

func scalar(t *token.Token) (*jsontree.Value, error) {
	text := strings.TrimSpace(t.Value)
	switch {
	case integer.MatchString(text) && len(text) < 19:
		return jsontree.NewScalar(jsontree.Number, strings.TrimPrefix(text, "+")), nil
	case float.MatchString(text):
		return jsontree.NewScalar(jsontree.Number, strings.TrimPrefix(text, "+")), nil
	case doubtful.MatchString(text) && !versionLike(text):
		return nil, fmt.Errorf("line %d: %w: a value that is a number or a time to some readers; quote it", t.Position.Line, sops.ErrUnsupported)
	}
	return jsontree.NewString(text), nil
}

// versionLike is 3.13.3: text to every reader.
func versionLike(text string) bool {
	return strings.Count(text, ".") >= 2 && strings.Trim(text, "0123456789.") == ""
}

// spliceYAML puts stanzas in the place of those of a file, and leaves all other bytes.
func spliceYAML(data []byte, stanzas []seal.Stanza) ([]byte, error) {
	from, to, column, err := agePlace(data)
	if err != nil {
		return nil, err
	}
	pad := func(n int) string { return strings.Repeat(" ", n) }
	var b strings.Builder
	b.WriteString(pad(column) + "age:\n")
	for _, s := range stanzas {
		b.WriteString(pad(2*column) + "- enc: |\n")
		for line := range strings.Lines(s.Wrapped) {
			b.WriteString(pad(max(3*column, 2*column+4)) + line)
		}
		recipient, _ := json.Marshal(s.Recipient) // Strings can be marshalled.
		if safe.MatchString(s.Recipient) {
			recipient = []byte(s.Recipient)
		}
		b.WriteString(pad(2*column+2) + "recipient: " + string(recipient) + "\n")
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if to = min(to, len(lines)); from > to {
		return nil, errForm
	}
	return bytes.Join([][]byte{bytes.Join(lines[:from], nil), []byte(b.String()), bytes.Join(lines[to:], nil)}, nil), nil
}

var (
	errForm = fmt.Errorf("%w: sops.age is not where sops writes it", sops.ErrUnsupported)
	safe    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9@._=+/ -]*$`)
)

// agePlace returns the lines of sops.age, the first one's index and that after the last one's,
// and the column of the key, from 0.
func agePlace(data []byte) (from, to, column int, err error) {
	body, err := parseYAML(data, false)
	if err != nil {
		return 0, 0, 0, err
	}
	to = math.MaxInt
	top := mapping(body)
	for i, m := range top {
		if k, ok := m.Key.(ast.Node).(*ast.StringNode); !ok || k.Value != "sops" {
			continue
		}
		if i+1 < len(top) {
			to = top[i+1].Key.GetToken().Position.Line - 1
		}
		meta := mapping(m.Value)
		for j, a := range meta {
			if k, ok := a.Key.(ast.Node).(*ast.StringNode); !ok || k.Value != "age" {
				continue
			}
			at := keyPlace(a)
			if j+1 < len(meta) {
				to = keyPlace(meta[j+1]).Line - 1
			}
			if flow(m.Value) || flow(a.Value) || at.Column < 2 || at.Line == m.Key.GetToken().Position.Line {
				return 0, 0, 0, errForm
			}
			return at.Line - 1, to, at.Column - 1, nil
		}
	}
	return 0, 0, 0, errForm
}

func keyPlace(m *ast.MappingValueNode) *token.Position { return m.Key.GetToken().Position }

func mapping(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// flow says whether a node is written {…} or […].
func flow(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.IsFlowStyle
	case *ast.SequenceNode:
		return n.IsFlowStyle
	}
	return false
}
