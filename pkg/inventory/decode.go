package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// decoder turns nodes into values and collects what is wrong on the way. After
// a problem it goes on with a zero value, so that all are found at once.
type decoder struct {
	collector
	// lenient lets unknown keys be: clan's inventory grows new ones.
	lenient bool
}

func (d *decoder) invalid(at Place, hint, format string, args ...any) {
	d.add(at, ErrInvalid, fmt.Sprintf(format, args...), hint)
}

// mapping checks that n is a map; null counts as an empty one.
func (d *decoder) mapping(n *node, what string) bool {
	if n.kind == kindMap || n.kind == kindNull {
		return true
	}
	d.invalid(n.at, "write a map of key: value", "%s is %s", what, n.kind)
	return false
}

// fields calls the function of each key of n that has a value.
func (d *decoder) fields(n *node, what string, known map[string]func(*node)) {
	if !d.mapping(n, what) {
		return
	}
	for _, e := range n.entries {
		read, ok := known[e.key]
		switch {
		case !ok && !d.lenient:
			d.add(e.at, ErrUnknown, fmt.Sprintf("%s has no key %s", what, quote(e.key)), suggest(e.key, slices.Collect(maps.Keys(known))))
		case ok && e.value.kind != kindNull:
			read(e.value)
		}
	}
}

// text reads a string without control characters, except line breaks and tabs;
// of anything else it returns "" after the problem.
func (d *decoder) text(n *node, what string) string {
	if n.kind != kindString {
		d.invalid(n.at, "write text, in quotes where it looks like something else", "%s is %s", what, n.kind)
		return ""
	}
	if strings.ContainsFunc(n.text, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r'
	}) {
		d.invalid(n.at, "remove them", "%s has control characters: %s", what, quote(n.text))
		return ""
	}
	return n.text
}

// path reads the path of a file: text on one line, not empty.
func (d *decoder) path(n *node, what string) string {
	s := d.text(n, what)
	if s == n.text && (s == "" || strings.ContainsAny(s, "\n\r")) {
		d.invalid(n.at, "write a path, relative to the fleet file or absolute", "%s is no path: %s", what, quote(n.text))
		return ""
	}
	return s
}

func (d *decoder) boolean(n *node, what string) bool {
	if n.kind != kindBool {
		d.invalid(n.at, "write true or false", "%s is %s", what, n.short())
	}
	return n.kind == kindBool && n.text == "true"
}

// whole reads a whole number in [least, most].
func (d *decoder) whole(n *node, what string, least, most int64) int64 {
	if n.kind != kindInt || n.num < least || n.num > most {
		d.invalid(n.at, fmt.Sprintf("write a whole number from %d to %d", least, most), "%s is %s", what, n.short())
		return 0
	}
	return n.num
}

// list reads a list; null counts as an empty one.
func (d *decoder) list(n *node, what string) []*node {
	if n.kind != kindList && n.kind != kindNull {
		d.invalid(n.at, "write a list, such as [a, b]", "%s is %s", what, n.kind)
		return nil
	}
	return n.list
}

// duration reads "90s", "1h30m" or a number of days such as "180d"; more than
// zero, at most most.
func (d *decoder) duration(n *node, what string, most time.Duration) time.Duration {
	const hint = `write text such as "90s", "10m" or "180d"`
	if n.kind != kindString {
		d.invalid(n.at, hint, "%s is %s", what, n.short())
		return 0
	}
	v, err := parseDuration(n.text)
	switch {
	case err != nil:
		d.invalid(n.at, hint, "%s is %s", what, quote(n.text))
	case v <= 0 || v > most:
		d.invalid(n.at, fmt.Sprintf("it must be more than 0 and at most %s", showDuration(most)), "%s is %s", what, quote(n.text))
	default:
		return v
	}
	return 0
}

const day = 24 * time.Hour

func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok && len(days) <= 5 && days != "" && strings.Trim(days, "0123456789") == "" {
		var n int
		_, err := fmt.Sscanf(days, "%d", &n)
		return time.Duration(n) * day, err
	}
	return time.ParseDuration(s)
}

func showDuration(v time.Duration) string {
	if v >= day && v%day == 0 {
		return fmt.Sprintf("%dd", v/day)
	}
	return strings.TrimSuffix(strings.TrimSuffix(v.String(), "0s"), "0m")
}

// enum reads a closed set of words.
func enum[T ~string](d *decoder, n *node, what string, values ...T) T {
	words := make([]string, len(values))
	for i, v := range values {
		if n.kind == kindString && n.text == string(v) {
			return v
		}
		words[i] = string(v)
	}
	d.add(n.at, ErrUnknown, fmt.Sprintf("%s is %s", what, n.short()), suggest(n.text, words))
	return ""
}

// parsed reads an identifier with one of the parsers of pkg/fleet.
func parsed[T ~string](d *decoder, at Place, s string, parse func(string) (T, error)) (T, bool) {
	v, err := parse(s)
	if err != nil {
		d.add(at, err, err.Error(), "")
		return "", false
	}
	return v, true
}
