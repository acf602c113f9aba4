package packaging

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// splitSystemd splits a command line of a unit as systemd.syntax(7) and
// systemd.service(5) have it, as far as the modules write it: words, double quotes
// with \" and \\, and %% and $$ for themselves.
func splitSystemd(line string) (words []string, err error) {
	var word strings.Builder
	quoted, in := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		next := byte(0)
		if i+1 < len(line) {
			next = line[i+1]
		}
		switch {
		case c == '\\' && quoted && (next == '"' || next == '\\'):
			word.WriteByte(next)
			i++
		case c == '\\' || c == '\'' && !quoted:
			return nil, errors.New("a quote or escape that is not read here")
		case c == '"':
			quoted, in = !quoted, true
		case c == ' ' && !quoted:
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		case c == '%' && next != '%':
			return nil, errors.New("a lone %")
		case c == '$' && next != '$' && next != '{':
			return nil, errors.New("a lone $")
		case (c == '%' || c == '$') && next == c:
			i++
			fallthrough
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quoted {
		return nil, errors.New("a quote without an end")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// splitShell splits a command line of the shell, as far as the modules write it:
// words, single quotes, and \' between them.
func splitShell(line string) (words []string, err error) {
	var word strings.Builder
	quoted, in := false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\'':
			quoted, in = !quoted, true
		case quoted:
			word.WriteByte(c)
		case c == '\\' && i+1 < len(line) && line[i+1] == '\'':
			word.WriteByte('\'')
			i++
		case c == ' ':
			if in {
				words = append(words, word.String())
			}
			word.Reset()
			in = false
		case strings.IndexByte("\\\"$`&;|<>(){}[]*?!#~", c) >= 0:
			return nil, errors.New("the shell would take a sign for itself")
		default:
			word.WriteByte(c)
			in = true
		}
	}
	if quoted {
		return nil, errors.New("a quote without an end")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		`a  b`: {"a", "b"}, `a "b c" ""`: {"a", "b c", ""}, `"x\"y\\z" 100%% $$HOME ${A}/b`: {"x\"y\\z", "100%", "$HOME", "${A}/b"},
	} {
		if got, err := splitSystemd(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	for line, want := range map[string][]string{`a  b`: {"a", "b"}, `'it'\''s 100% $x' ''`: {"it's 100% $x", ""}} {
		if got, err := splitShell(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	for _, line := range []string{`"a`, `100%`, `$x`, `a\b`, `a'b`} {
		if got, err := splitSystemd(line); err == nil {
			t.Errorf("systemd: %s is %q", line, got)
		}
	}
	for _, line := range []string{`'a`, `a$b`, `a;b`} {
		if got, err := splitShell(line); err == nil {
			t.Errorf("shell: %s is %q", line, got)
		}
	}
}
