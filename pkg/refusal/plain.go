package refusal

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain makes what the other side wrote harmless to show: without control and
// formatting characters, which could rewrite what a terminal shows.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case harmful(r):
			return -1
		}
		return r
	}, s)
}

// harmful says whether a terminal may obey a character instead of showing it.
func harmful(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar
}

// Cause is what gRPC wraps where it found no connection, such as "dial tcp …: connection
// refused"; any other text stays as it is.
func Cause(said string) string {
	_, cause, ok := strings.Cut(said, "desc = \"")
	if !ok {
		return said
	}
	cause = strings.TrimPrefix(strings.TrimSuffix(cause, "\""), "transport: ")
	return strings.TrimPrefix(strings.TrimPrefix(cause, "Error while dialing: "), "error while dialing: ")
}

// PlainWriter passes on to w what programs wrote, as Plain does with one line:
// newlines and tabs stay, other harmful characters are seen to be replaced. Of a
// character that is not whole at the end, nothing is written.
func PlainWriter(w io.Writer) io.Writer { return &plainWriter{w: w} }

type plainWriter struct {
	w io.Writer
	// rest is the beginning of a character that the next piece ends.
	rest []byte
}

// Write writes all of p but for what is not a whole character yet.
func (w *plainWriter) Write(p []byte) (int, error) {
	all := append(w.rest, p...)
	end := len(all)
	for i := end - 1; i >= max(0, end-utf8.UTFMax); i-- {
		if utf8.RuneStart(all[i]) {
			if !utf8.FullRune(all[i:]) {
				end = i
			}
			break
		}
	}
	w.rest = bytes.Clone(all[end:])
	_, err := w.w.Write(bytes.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && harmful(r) {
			return unicode.ReplacementChar
		}
		return r
	}, all[:end]))
	if err != nil {
		return 0, err //nolint:wrapcheck // The writer's own.
	}
	return len(p), nil
}
