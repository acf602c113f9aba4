package inventory

import (
	"math"
	"strconv"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/strictyaml"
)

// Bounds on documents from outside.
const (
	// MaxBytes bounds an inventory or fleet file.
	MaxBytes = 4 << 20
	// MaxDepth bounds nesting.
	MaxDepth = strictyaml.MaxDepth
	// maxNodes bounds the values of one document, and with them memory.
	maxNodes = 1 << 19
)

// kind is the kind of a value.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindInt
	kindFloat
	kindString
	kindList
	kindMap
)

// String is what people call the kind.
func (k kind) String() string {
	switch k {
	case kindNull:
		return "null"
	case kindBool:
		return "a boolean"
	case kindInt, kindFloat:
		return "a number"
	case kindString:
		return "text"
	case kindList:
		return "a list"
	case kindMap:
		return "a map"
	}
	return "something else"
}

// node is a value of a JSON or YAML document with the place that it came from.
// Nodes never change once their document is read.
type node struct {
	at   Place
	kind kind
	// text is a scalar as it was written, or the content of a string.
	text string
	// num and float are the value of a kindInt and of a kindFloat.
	num   int64
	float float64
	list  []*node
	// entries are those of a map in the order of the document.
	entries []entry
}

// entry is one key of a map.
type entry struct {
	key   string
	at    Place
	value *node
}

// get returns the value of key, or nil.
func (n *node) get(key string) *node {
	if n != nil {
		for _, e := range n.entries {
			if e.key == key {
				return e.value
			}
		}
	}
	return nil
}

// number makes n a number out of its text; false where it is none, or beyond
// what 64 bits hold.
func (n *node) number(text string) bool {
	n.text = text
	if v, err := strconv.ParseInt(text, 10, 64); err == nil {
		n.kind, n.num = kindInt, v
		return true
	}
	if !strings.ContainsAny(text, ".eE") {
		return false
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
		return false
	}
	n.kind, n.float = kindFloat, v
	return true
}

// sameScalar says whether two scalars are equal as clan sees it: 1 and 1.0
// are.
func sameScalar(a, b *node) bool {
	if a.kind == b.kind {
		switch a.kind {
		case kindNull:
			return true
		case kindBool, kindString:
			return a.text == b.text
		case kindInt:
			return a.num == b.num
		case kindFloat:
			return a.float == b.float
		case kindList, kindMap:
			return false
		}
	}
	if a.kind == kindInt && b.kind == kindFloat {
		return float64(a.num) == b.float
	}
	if a.kind == kindFloat && b.kind == kindInt {
		return a.float == float64(b.num)
	}
	return false
}

// plain returns n as encoding/json would: map[string]any, []any, string, bool,
// nil, with int64 for whole numbers and float64 for others.
func (n *node) plain() any {
	switch n.kind {
	case kindNull:
		return nil
	case kindBool:
		return n.text == "true"
	case kindInt:
		return n.num
	case kindFloat:
		return n.float
	case kindString:
		return n.text
	case kindList:
		list := make([]any, len(n.list))
		for i, v := range n.list {
			list[i] = v.plain()
		}
		return list
	case kindMap:
		return n.plainMap()
	}
	return nil
}

func (n *node) plainMap() map[string]any {
	m := make(map[string]any, len(n.entries))
	for _, e := range n.entries {
		m[e.key] = e.value.plain()
	}
	return m
}

// short shows n in an error.
func (n *node) short() string {
	switch n.kind {
	case kindString:
		return quote(n.text)
	case kindBool, kindInt, kindFloat:
		return clip(n.text)
	case kindNull, kindList, kindMap:
	}
	return n.kind.String()
}
