package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// jsonReader makes nodes out of JSON. It does what pkg/strictjson does and
// keeps the line of every value, which encoding/json cannot.
type jsonReader struct {
	file  string
	data  []byte
	dec   *json.Decoder
	nodes int
	// line is that of the byte at offset.
	line, offset int
}

// readJSON reads one JSON document. The error is a *Problem.
func readJSON(file string, data []byte) (*node, error) {
	if err := checkSize(file, data); err != nil {
		return nil, err
	}
	r := &jsonReader{file: file, data: data, dec: json.NewDecoder(bytes.NewReader(data)), line: 1}
	r.dec.UseNumber()
	n, err := r.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, r.problem(strictjson.ErrSyntax, "something follows the end of the document", "remove it")
	}
	return n, nil
}

// checkSize refuses documents beyond MaxBytes, and what some editors put in
// front.
func checkSize(file string, data []byte) error {
	if bytes.HasPrefix(data, []byte("\ufeff")) {
		return &Problem{
			Place: Place{File: file, Line: 1}, kind: strictjson.ErrSyntax,
			Message: "the file begins with a byte order mark", Hint: "save it as UTF-8 without one",
		}
	}
	if len(data) <= MaxBytes {
		return nil
	}
	return &Problem{
		Place: Place{File: file}, kind: strictjson.ErrTooLarge,
		Message: fmt.Sprintf("larger than %d bytes", MaxBytes),
		Hint:    "is this the right file?",
	}
}

// here is the place right behind the last token.
func (r *jsonReader) here() Place {
	end := min(int(r.dec.InputOffset()), len(r.data))
	if end > r.offset {
		r.line += bytes.Count(r.data[r.offset:end], []byte("\n"))
		r.offset = end
	}
	return Place{File: r.file, Line: r.line}
}

func (r *jsonReader) problem(kind error, message, hint string) error {
	return &Problem{Place: r.here(), Message: message, Hint: hint, kind: kind}
}

func (r *jsonReader) token() (json.Token, error) {
	tok, err := r.dec.Token()
	if err == nil {
		return tok, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &Problem{
			Place: Place{File: r.file, Line: strictjson.Line(r.data, int64(len(r.data)))}, kind: strictjson.ErrSyntax,
			Message: "the document ends too early", Hint: "it was cut off; write it again",
		}
	}
	at := r.dec.InputOffset()
	if se := (*json.SyntaxError)(nil); errors.As(err, &se) {
		at = se.Offset
	}
	return nil, &Problem{
		Place: Place{File: r.file, Line: strictjson.Line(r.data, at)}, kind: strictjson.ErrSyntax,
		Message: "not valid JSON: " + err.Error(), Hint: "write it again with nix eval --json, or correct it",
	}
}

func (r *jsonReader) value(depth int) (*node, error) {
	tok, err := r.token()
	if err != nil {
		return nil, err
	}
	if r.nodes++; r.nodes > maxNodes {
		return nil, r.problem(strictjson.ErrTooLarge, fmt.Sprintf("more than %d values", maxNodes), "is this the right file?")
	}
	if depth > MaxDepth {
		return nil, r.problem(strictjson.ErrTooDeep, fmt.Sprintf("nested more than %d levels deep", MaxDepth), "is this the right file?")
	}
	n := &node{at: r.here()}
	switch t := tok.(type) {
	case nil:
		n.kind, n.text = kindNull, "null"
	case bool:
		n.kind, n.text = kindBool, fmt.Sprint(t)
	case json.Number:
		if !n.number(t.String()) {
			return nil, r.problem(ErrInvalid, "number "+clip(t.String())+" is beyond 64 bits", "correct it")
		}
	case string:
		n.kind, n.text = kindString, t
	case json.Delim:
		if t == '[' {
			n.kind = kindList
			return n, r.list(n, depth)
		}
		n.kind = kindMap
		return n, r.object(n, depth)
	}
	return n, nil
}

func (r *jsonReader) list(n *node, depth int) error {
	for r.dec.More() {
		v, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		n.list = append(n.list, v)
	}
	_, err := r.token()
	return err
}

func (r *jsonReader) object(n *node, depth int) error {
	seen := map[string]int{}
	for r.dec.More() {
		tok, err := r.token()
		if err != nil {
			return err
		}
		key, _ := tok.(string)
		at := r.here()
		if line, twice := seen[key]; twice {
			return duplicate(at, key, line)
		}
		seen[key] = at.Line
		v, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		n.entries = append(n.entries, entry{key: key, at: at, value: v})
	}
	_, err := r.token()
	return err
}

func duplicate(at Place, key string, line int) error {
	return &Problem{
		Place: at, kind: strictjson.ErrDuplicate,
		Message: fmt.Sprintf("key %s is here and at line %d", quote(key), line),
		Hint:    "keep one of them",
	}
}

// looksLikeJSON says whether a file is a bare JSON inventory, by its name and
// else by its first byte.
func looksLikeJSON(file string, data []byte) bool {
	switch {
	case strings.HasSuffix(file, ".json"):
		return true
	case strings.HasSuffix(file, ".yaml"), strings.HasSuffix(file, ".yml"):
		return false
	}
	return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{"))
}
