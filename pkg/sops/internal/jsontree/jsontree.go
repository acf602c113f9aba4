// Package jsontree reads JSON so that what is written again is what was read: keys keep
// their order, strings and numbers their spelling. It is as strict as strictjson, by which
// everything is checked first.
package jsontree

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// Kind is what a value is.
type Kind uint8

// The kinds.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is a value of a document.
type Value struct {
	Kind Kind
	// raw is how a scalar was spelled.
	raw string
	// Elements are those of an array.
	Elements []*Value
	// Members are those of an object, in the file's order.
	Members []Member
}

// Member is a key of an object with its value.
type Member struct {
	Key    string
	rawKey string
	Value  *Value
}

// Parse reads a document of at most so many bytes. Equal keys of one object are refused.
func Parse(data []byte, maxBytes int) (*Value, error) {
	if err := strictjson.Check(data, maxBytes); err != nil {
		return nil, err //nolint:wrapcheck // It names the line.
	}
	p := parser{data: data, d: json.NewDecoder(bytes.NewReader(data))}
	p.d.UseNumber()
	return p.value()
}

type parser struct {
	data []byte
	d    *json.Decoder
}

// token returns the next token, and how it is spelled.
func (p *parser) token() (json.Token, string, error) {
	from := p.d.InputOffset()
	tok, err := p.d.Token()
	if err != nil {
		return nil, "", fmt.Errorf("line %d: %w", strictjson.Line(p.data, from), err)
	}
	return tok, string(bytes.TrimLeft(p.data[from:p.d.InputOffset()], " \t\r\n,:")), nil
}

func (p *parser) value() (*Value, error) {
	tok, raw, err := p.token()
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case nil:
		return &Value{Kind: Null, raw: raw}, nil
	case bool:
		return &Value{Kind: Bool, raw: raw}, nil
	case json.Number:
		return &Value{Kind: Number, raw: raw}, nil
	case string:
		return &Value{Kind: String, raw: raw}, nil
	case json.Delim:
		v := &Value{Kind: Array}
		if t == '{' {
			v.Kind = Object
		}
		for p.d.More() {
			m := Member{}
			if v.Kind == Object {
				var key json.Token
				if key, m.rawKey, err = p.token(); err != nil {
					return nil, err
				}
				m.Key, _ = key.(string)
			}
			if m.Value, err = p.value(); err != nil {
				return nil, err
			}
			if v.Kind == Object {
				v.Members = append(v.Members, m)
			} else {
				v.Elements = append(v.Elements, m.Value)
			}
		}
		_, _, err = p.token()
		return v, err
	}
	return nil, fmt.Errorf("line %d: %w", strictjson.Line(p.data, p.d.InputOffset()), strictjson.ErrSyntax)
}

// Text returns a string's text, and a number or boolean as it is spelled; what else there
// is has none.
func (v *Value) Text() (string, bool) {
	switch v.Kind {
	case String:
		var s string
		return s, json.Unmarshal([]byte(v.raw), &s) == nil
	case Bool, Number:
		return v.raw, true
	case Null, Array, Object:
	}
	return "", false
}

// Get returns the value of a key, or nil.
func (v *Value) Get(key string) *Value {
	for _, m := range v.Members {
		if m.Key == key {
			return m.Value
		}
	}
	return nil
}

// Set replaces the value of a key. A new one comes where it is in alphabetical order, or
// last where the others are not in order.
func (v *Value) Set(key string, value *Value) {
	for i := range v.Members {
		if v.Members[i].Key == key {
			v.Members[i].Value = value
			return
		}
	}
	byKey := func(a, b Member) int { return strings.Compare(a.Key, b.Key) }
	at := len(v.Members)
	m := Member{Key: key, rawKey: quote(key), Value: value}
	if slices.IsSortedFunc(v.Members, byKey) {
		at, _ = slices.BinarySearchFunc(v.Members, m, byKey)
	}
	v.Members = slices.Insert(v.Members, at, m)
}

// Clone returns a copy that shares nothing.
func (v *Value) Clone() *Value {
	c := *v
	c.Elements = slices.Clone(v.Elements)
	for i, e := range c.Elements {
		c.Elements[i] = e.Clone()
	}
	c.Members = slices.Clone(v.Members)
	for i, m := range c.Members {
		c.Members[i].Value = m.Value.Clone()
	}
	return &c
}

// NewString returns a string as sops spells it.
func NewString(s string) *Value { return &Value{Kind: String, raw: quote(s)} }

// NewScalar returns a number, boolean or null that is spelled so in JSON.
func NewScalar(kind Kind, raw string) *Value { return &Value{Kind: kind, raw: raw} }

// NewObject returns an object of keys, each with its value after it, in alphabetical order.
func NewObject(keysAndValues ...any) *Value {
	o := &Value{Kind: Object}
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		key, _ := keysAndValues[i].(string)
		value, _ := keysAndValues[i+1].(*Value)
		o.Set(key, value)
	}
	return o
}

// Append adds a key at the end of an object.
func (v *Value) Append(key string, value *Value) {
	v.Members = append(v.Members, Member{Key: key, rawKey: quote(key), Value: value})
}

// quote spells a string as encoding/json does, and so sops.
func quote(s string) string {
	b, _ := json.Marshal(s) // Strings can be marshalled.
	return string(b)
}

// Bytes returns the document as sops writes it: indented by tabs, with a newline at its end.
func (v *Value) Bytes() []byte {
	var b bytes.Buffer
	v.write(&b, "\n")
	b.WriteByte('\n')
	return b.Bytes()
}

func (v *Value) write(b *bytes.Buffer, newline string) {
	open, shut, n := byte('['), byte(']'), len(v.Elements)
	switch v.Kind {
	case Object:
		open, shut, n = '{', '}', len(v.Members)
	case Null, Bool, Number, String:
		b.WriteString(v.raw)
		return
	case Array:
	}
	b.WriteByte(open)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(newline + "\t")
		if v.Kind == Object {
			b.WriteString(v.Members[i].rawKey + ": ")
			v.Members[i].Value.write(b, newline+"\t")
		} else {
			v.Elements[i].write(b, newline+"\t")
		}
	}
	if n > 0 {
		b.WriteString(newline)
	}
	b.WriteByte(shut)
}
