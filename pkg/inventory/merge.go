package inventory

import (
	"fmt"
	"math"
	"strconv"
)

// normalPriority is that of a plain definition in clan's module system. The
// lowest number wins: mkForce is 50, mkDefault 1000.
const normalPriority = 100

// definition is one value for an option, and the scope that defines it, such
// as "tag web".
type definition struct {
	scope string
	value *node
}

// merge joins the definitions of one option by clan's rule. All scopes have
// equal priority: of definitions with _type: override those with the lowest
// number count, maps merge key by key, lists are concatenated in the order of
// defs, equal scalars are fine, and anything else is a conflict, which goes to
// c with both places. Of a conflict the first definition is returned.
func merge(path string, defs []definition, c *collector) *node {
	kept := strip(path, defs, c)
	if len(kept) == 0 {
		return &node{kind: kindNull, text: "null"}
	}
	first := kept[0]
	for _, d := range kept[1:] {
		same := first.value.kind == d.value.kind
		if first.value.kind != kindMap && first.value.kind != kindList {
			same = sameScalar(first.value, d.value)
		}
		if !same {
			c.conflict(path, first, d)
			kept = kept[:1]
			break
		}
	}
	switch first.value.kind {
	case kindMap:
		return mergeMaps(path, kept, c)
	case kindList:
		joined := &node{at: first.value.at, kind: kindList}
		for _, d := range kept {
			for _, item := range d.value.list {
				at := path + "[" + strconv.Itoa(len(joined.list)) + "]"
				joined.list = append(joined.list, merge(at, []definition{{d.scope, item}}, c))
			}
		}
		return joined
	case kindNull, kindBool, kindInt, kindFloat, kindString:
	}
	return first.value
}

func mergeMaps(path string, defs []definition, c *collector) *node {
	joined := &node{at: defs[0].value.at, kind: kindMap}
	byKey := map[string][]definition{}
	var order []entry
	for _, d := range defs {
		for _, e := range d.value.entries {
			if byKey[e.key] == nil {
				order = append(order, e)
			}
			byKey[e.key] = append(byKey[e.key], definition{d.scope, e.value})
		}
	}
	for _, e := range order {
		e.value = merge(join(path, e.key), byKey[e.key], c)
		joined.entries = append(joined.entries, e)
	}
	return joined
}

func (c *collector) conflict(path string, a, b definition) {
	c.add(b.value.at, ErrConflict,
		fmt.Sprintf("%s is %s here (%s) and %s at %s (%s)", pathName(path), b.value.short(), b.scope, a.value.short(), a.value.at, a.scope),
		"all scopes have equal priority: remove one, or write {_type: override, priority: 50, content: …} for the one that counts")
}

// strip opens the overrides among defs and keeps those of the lowest priority.
func strip(path string, defs []definition, c *collector) []definition {
	best := math.MaxInt
	kept := make([]definition, 0, len(defs))
	for _, d := range defs {
		priority := normalPriority
		if typ := d.value.get("_type"); typ != nil {
			var ok bool
			if d.value, priority, ok = openOverride(path, d.value, typ, c); !ok {
				continue
			}
		}
		if priority < best {
			best, kept = priority, kept[:0]
		}
		if priority == best {
			kept = append(kept, d)
		}
	}
	return kept
}

// openOverride returns what mkForce, mkDefault and mkOverride leave in an
// evaluated inventory: {"_type": "override", "priority": N, "content": VALUE}.
func openOverride(path string, n, typ *node, c *collector) (content *node, priority int, ok bool) {
	if typ.kind != kindString || typ.text != "override" {
		c.add(typ.at, ErrInvalid, fmt.Sprintf("%s has _type %s", pathName(path), typ.short()),
			"only override is read (mkForce, mkDefault, mkOverride); write the value itself")
		return nil, 0, false
	}
	const shape = "write {_type: override, priority: NUMBER, content: VALUE}"
	for _, e := range n.entries {
		if e.key != "_type" && e.key != "priority" && e.key != "content" {
			c.add(e.at, ErrUnknown, fmt.Sprintf("%s: an override has no key %s", pathName(path), quote(e.key)), shape)
			return nil, 0, false
		}
	}
	number, content := n.get("priority"), n.get("content")
	switch {
	case number == nil || number.kind != kindInt || number.num < 0 || number.num > math.MaxInt32:
		c.add(n.at, ErrInvalid, pathName(path)+": an override without a whole number as priority", shape)
	case content == nil:
		c.add(n.at, ErrInvalid, pathName(path)+": an override without content", shape)
	case content.get("_type") != nil:
		c.add(content.at, ErrInvalid, pathName(path)+": an override directly in an override", "keep one of them")
	default:
		return content, int(number.num), true
	}
	return nil, 0, false
}

// join appends a key to a path of options.
func join(path, key string) string {
	if path == "" {
		return clip(key)
	}
	return path + "." + clip(key)
}

func pathName(path string) string {
	if path == "" {
		return "settings"
	}
	return path
}
