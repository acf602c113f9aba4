package service

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// placeholder is where a value goes in a template.
var placeholder = regexp.MustCompile(`@[A-Z_]+@`)

// Fill makes a file of a template by putting values, by their names, where
// @NAME@ is. A line with a placeholder whose value is empty is left out; names
// without a value, and values without a place, are errors of the caller. Values
// must be quoted for the file already.
//
// It is not text/template, with which the linker keeps every method of every
// type: an agent is idle nearly all of its life, and would be so with some
// megabytes more.
func Fill(template string, values map[string]string) (string, error) {
	var out strings.Builder
	missing, used := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(template) {
		keep := true
		filled := placeholder.ReplaceAllStringFunc(line, func(name string) string {
			name = strings.Trim(name, "@")
			value, ok := values[name]
			used[name] = true
			missing[name] = !ok
			keep = keep && value != ""
			return value
		})
		if keep {
			out.WriteString(filled)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		if missing[name] {
			return "", fmt.Errorf("filling a template: there is no value for %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !used[name] {
			return "", fmt.Errorf("filling a template: it has no place for %s", name)
		}
	}
	return out.String(), nil
}

// UnitArgs are arguments as a unit's ExecStart has them: quoted, and with what
// systemd would expand taken literally. Arguments must be Plain.
func UnitArgs(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = unitArg(a)
	}
	return strings.Join(quoted, " ")
}

// bare is what needs no quotes in a unit.
var bare = regexp.MustCompile(`^[A-Za-z0-9@_+=:,./\[\]-]+$`)

func unitArg(a string) string {
	a = strings.NewReplacer("%", "%%", "$", "$$").Replace(a)
	if bare.MatchString(a) {
		return a
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a) + `"`
}

// XML is text as a property list has it.
func XML(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // A buffer takes everything.
	return b.String()
}

// Plain refuses text that can't be an argument in a unit or a property list: it
// has control characters or is no UTF-8. what names it in the error.
func Plain(what, text string) error {
	for _, r := range text {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return fmt.Errorf("%s %q: a service's arguments have neither control characters nor bytes that are no UTF-8", what, text)
		}
	}
	return nil
}

// plainPath are the characters of paths that no file of a service manager quotes.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9_+,.@/-]*$`)

// PlainPath refuses a path that can't stand in a unit without quotes, which not
// all of its settings take.
func PlainPath(what, path string) error {
	if !plainPath.MatchString(path) || strings.Contains(path, "//") || strings.Contains(path, "--") {
		return fmt.Errorf("%s %q: a service wants an absolute path of letters, digits and ._+,@- here", what, path)
	}
	return nil
}
